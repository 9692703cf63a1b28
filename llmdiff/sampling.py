"""Draw pictures from prompts and seeds: the settings, the samplers, and the one loop that every part of llmdiff uses.

A picture's noise comes from its own seed and from the CPU, so that a seed means the same picture on every device and
in every batch, but for rounding.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, model_validator

from llmdiff.compilation import check_compiler
from llmdiff.devices import device

if TYPE_CHECKING:
    import numpy as np
    import torch
    from PIL import Image
    from torch import Tensor

DType = Literal["float32", "bfloat16", "float16"]
Scheduler = Literal["ddim", "dpm++", "euler", "euler-a", "lcm", "pndm", "unipc"]
SCHEDULERS: dict[Scheduler, str] = {
    "ddim": "DDIMScheduler",
    "dpm++": "DPMSolverMultistepScheduler",
    "euler": "EulerDiscreteScheduler",
    "euler-a": "EulerAncestralDiscreteScheduler",
    "lcm": "LCMScheduler",
    "pndm": "PNDMScheduler",
    "unipc": "UniPCMultistepScheduler",
}
"""Classes of diffusers by the names of samplers."""


class Sampling(BaseModel):
    """Settings of drawing, the same for every model that is compared."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    steps: int = 20
    """Denoising steps."""
    guidance: float = 3.0
    """Classifier-free guidance scale."""
    size: int | None = None
    """Side of a picture in pixels; None is each model's own."""
    scheduler: Scheduler | None = None
    """The sampler, a key of `SCHEDULERS`; None is each model's own."""
    dtype: DType = "float32"
    """Dtype of the models."""
    negative: str = ""
    """What not to draw."""
    scale: float = 1.0
    """Share of the adapter: 1 is as trained, 0 the original attention alone."""
    torch_compile: bool = False
    """Compile the U-Net: see `prepare`."""
    channels_last: bool = False
    """Whether convolutions use the memory format `channels_last`: see `prepare`."""

    @model_validator(mode="after")
    def check(self) -> Self:
        """Raise ValueError for steps and sizes that no model can draw."""
        if self.steps < 1:
            raise ValueError(f"steps: expected at least 1, found {self.steps}")
        if self.size is not None and (self.size < 8 or self.size % 8):
            raise ValueError(f"size: expected a multiple of 8 pixels, found {self.size}")
        return self

    def key(self) -> dict[str, Any]:
        """Return the settings that name a picture in a gallery; `negative` and `scale` only where they are set.

        Settings that move it by rounding alone, as its batch does, are left out.
        """
        later = {"negative": "", "scale": 1.0}
        settings = self.model_dump(exclude={"torch_compile", "channels_last"})
        return {name: value for name, value in settings.items() if name not in later or value != later[name]}

    def loading(self) -> dict[str, Any]:
        """Return the arguments of `load_pipeline` that a pipeline is loaded and prepared by."""
        return self.model_dump(include={"dtype", "scheduler", "torch_compile", "channels_last"})

    def call(self) -> dict[str, Any]:
        """Return the arguments of a diffusers pipeline's call that hold for every prompt."""
        call: dict[str, Any] = {"num_inference_steps": self.steps, "guidance_scale": self.guidance}
        if self.size is not None:
            call |= {"height": self.size, "width": self.size}
        if self.scale != 1.0:
            call["adapter_scale"] = self.scale
        return call


def draw(
    pipe: Any,
    prompts: Sequence[str],
    seeds: Sequence[int],
    sampling: Sampling,
    batch_size: int = 4,
    **call: Any,
) -> Iterator[np.ndarray]:
    """Draw prompts with a diffusers pipeline, each from its own seed.

    Args:
        pipe: called as ``pipe(texts, generator=[...], output_type="np", ...)``, as every diffusers pipeline is.
        prompts: what to draw.
        seeds: one a prompt.
        sampling: the settings; `scheduler` and `dtype` are those of a loaded pipeline, see `prepare`.
        batch_size: prompts drawn at once.
        call: more arguments for the pipeline.

    Yields:
        Batches ``(prompt, height, width, 3)`` float32 from 0 to 1; `to_uint8` and `to_images` make pictures of them.

    Raises:
        ValueError: numbers of prompts and seeds differ, or the model drew pixels that are not finite.
    """
    if len(prompts) != len(seeds):
        raise ValueError(f"seeds: expected {len(prompts)}, one a prompt, found {len(seeds)}")
    for start in range(0, len(prompts), batch_size):
        texts = list(prompts[start : start + batch_size])
        negative = {"negative_prompt": [sampling.negative] * len(texts)} if sampling.negative else {}
        generators = [noise(seed) for seed in seeds[start : start + batch_size]]
        options = {**sampling.call(), **negative, **call}
        yield finite(pipe(texts, generator=generators, output_type="np", **options).images, texts)


def noise(seed: int) -> torch.Generator:
    """Return the source of a picture's noise; it is on the CPU, so that a seed means the same on every device."""
    import torch

    return torch.Generator().manual_seed(seed)


def finite(pictures: np.ndarray, texts: Sequence[str]) -> np.ndarray:
    """Return the pictures; raise ValueError where some pixels are infinite or NaN."""
    import numpy as np

    if not np.isfinite(pictures).all():
        raise ValueError(f"{texts[0]!r:.80}: the model drew pixels that are no numbers; try another dtype")
    return pictures


def to_uint8(pictures: np.ndarray) -> np.ndarray:
    """Return pictures of `draw` as uint8, halves rounded up, as in every gallery and evaluation."""
    import numpy as np

    return (pictures * 255 + 0.5).astype(np.uint8)


def to_images(pictures: np.ndarray) -> list[Image.Image]:
    """Return pictures of `draw` as diffusers itself gives them, halves rounded to the even level."""
    from diffusers.image_processor import VaeImageProcessor

    images: list[Image.Image] = VaeImageProcessor.numpy_to_pil(pictures)
    return images


def load_pipeline(
    diffusion: str | os.PathLike[str],
    adapter: str | os.PathLike[str] | None = None,
    llm: Any = None,
    *,
    dtype: DType = "float32",
    scheduler: Scheduler | None = None,
    torch_compile: bool = False,
    channels_last: bool = False,
) -> Any:
    """Load a base model, with an adapter and its LLM in it or as it is, ready to draw.

    Args:
        diffusion: the base model's folder, name or single file.
        adapter: its folder; None is the base model alone.
        llm: folder, name or ready encoder of the LLM that the adapter was trained with.
        dtype: dtype of the base model and the adapter.
        scheduler, torch_compile, channels_last: see `prepare`.
    """
    import torch

    from llmdiff.pipeline import LLMDiffPipeline

    if torch_compile:
        check_compiler()
    options = {"safety_checker": None, "dtype": getattr(torch, dtype)}
    pipe = LLMDiffPipeline.from_pretrained(diffusion, adapter, llm, **options)
    return prepare(pipe, scheduler, torch_compile=torch_compile, channels_last=channels_last)


def prepare(
    pipe: Any, scheduler: Scheduler | None = None, *, torch_compile: bool = False, channels_last: bool = False
) -> Any:
    """Give a pipeline the wanted sampler, take its progress bar away, and move it to the GPU if there is one.

    Args:
        pipe: a diffusers pipeline with a U-Net, or a transformer in its place.
        scheduler: a key of `SCHEDULERS`; None is the pipeline's own.
        torch_compile: compile the U-Net in place, with the adapter that is in it whenever it draws. Code is made for
            each size of batch and picture, but not for each length of a prompt. Pictures move by rounding.
        channels_last: keep convolutions of U-Net and autoencoder in that memory format; pictures move by rounding.
    """
    import diffusers
    import torch

    if scheduler is not None:
        pipe.scheduler = getattr(diffusers, SCHEDULERS[scheduler]).from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    pipe = pipe.to(device())
    denoiser = pipe.unet if hasattr(pipe, "unet") else pipe.transformer
    if channels_last:
        for part in (denoiser, pipe.vae):
            part.to(memory_format=torch.channels_last)
    if torch_compile:
        check_compiler()
        denoiser.compile()
    return pipe


def denoise(
    unet: Any,
    scheduler: Any,
    latents: Tensor,
    context: Tensor,
    sampling: Sampling,
    conditions: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """Draw latents from contexts that are there already, where neither text encoder nor autoencoder is loaded.

    Args:
        unet: a U-Net of diffusers, with or without an adapter.
        scheduler: a scheduler of diffusers; its steps are set here.
        latents: ``(prompt, channel, height, width)`` float32, the starting noise.
        context: ``(2 prompt, token, channel)``: of the unconditional half, then of the prompts.
        sampling: the settings, of which `steps` and `guidance` count here.
        conditions: what the U-Net reads besides, ``(2 prompt, ...)`` each.

    Returns:
        ``(prompt, channel, height, width)`` float32, scaled as the U-Net has them.
    """
    import torch

    scheduler.set_timesteps(sampling.steps, device=unet.device)
    for timestep in scheduler.timesteps:
        noisy = scheduler.scale_model_input(torch.cat([latents] * 2), timestep).to(unet.dtype)
        predicted = unet(noisy, timestep, encoder_hidden_states=context, added_cond_kwargs=conditions).sample
        without, given = predicted.float().chunk(2)
        guided = without + sampling.guidance * (given - without)
        latents = scheduler.step(guided, timestep, latents).prev_sample
    return latents
