"""`LLMDiffPipeline`: Stable Diffusion told what to draw by a decoder-only LLM; and the adapter in other pipelines."""

from __future__ import annotations

import dataclasses
import os
from typing import TYPE_CHECKING, Any, Protocol

import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline
from torch import Tensor

from llmdiff.adapter import AdapterConfig, LLMAdapter
from llmdiff.adapter.adapter import read_config
from llmdiff.adapter.padding import pad
from llmdiff.diffusion.base import LOADING
from llmdiff.diffusion.text import BaseTextEncoder
from llmdiff.folders import BASE_PARTS, check_base

if TYPE_CHECKING:
    from llmdiff.encoder import EncoderConfig


class TextEncoder(Protocol):
    """What `llmdiff.encoder.Encoder` and `BaseTextEncoder` have in common."""

    @property
    def hidden_size(self) -> int: ...

    def __call__(self, captions: list[str]) -> list[Tensor]: ...

    def describe(self) -> dict[str, Any]: ...


class LLMDiffPipeline(StableDiffusionPipeline):
    """`StableDiffusionPipeline` with an adapter and its LLM: called like it, ``adapter_scale`` besides."""

    @classmethod
    def from_pretrained(
        cls,
        base: str | os.PathLike[str],
        adapter: str | os.PathLike[str] | None = None,
        llm: str | os.PathLike[str] | TextEncoder | None = None,
        **options: Any,
    ) -> LLMDiffPipeline:
        """Loads a base model, an adapter folder and the LLM (folder, name or ready `Encoder`) it was trained with.

        `options` go to ``StableDiffusionPipeline.from_pretrained``; without a `dtype` all is float32. No LLM is needed
        by an adapter trained on the base's own text features. ValueError where the LLM is another than in training.
        """
        if adapter is not None:
            read_config(adapter)  # before anything heavy is loaded
        check_base(base, *(part for part in BASE_PARTS if part not in options))
        dtype = options.pop("torch_dtype", options.pop("dtype", torch.float32))
        pipe = super().from_pretrained(base, dtype=dtype, **{**LOADING, **options})
        if adapter is not None:
            load_adapter(pipe, adapter, llm)
        return pipe

    def __call__(self, *args: Any, adapter_scale: float | None = None, **kwargs: Any) -> Any:
        """As ``StableDiffusionPipeline``; `adapter_scale` from 1, as trained, to 0, the original attention alone."""
        if adapter_scale is None:
            return super().__call__(*args, **kwargs)
        adapter = adapter_of(self)
        before, adapter.scale = adapter.scale, adapter_scale
        try:
            return super().__call__(*args, **kwargs)
        finally:
            adapter.scale = before


def load_adapter(
    pipe: DiffusionPipeline, adapter: str | os.PathLike[str], llm: str | os.PathLike[str] | TextEncoder | None = None
) -> LLMAdapter:
    """Puts an adapter into a pipeline of the Stable Diffusion family: its U-Net, and its way of encoding prompts."""
    config = read_config(adapter)
    encoder = find_encoder(pipe, config, llm)
    check_encoder(adapter, config, encoder)
    if "llm_adapter" in vars(pipe):
        raise ValueError("the pipeline has an adapter already: unload it first")
    loaded = LLMAdapter.load(adapter, pipe.unet).to(pipe.unet.device, pipe.unet.dtype).eval().requires_grad_(False)
    loaded.install(pipe.unet)
    pipe.llm_adapter = loaded
    pipe.encode_prompt = PromptEncoder(pipe, loaded, encoder)
    return loaded


def unload_adapter(pipe: DiffusionPipeline) -> None:
    """Gives the pipeline back as it was before `load_adapter`."""
    adapter_of(pipe).uninstall()
    del pipe.llm_adapter, pipe.encode_prompt


def adapter_of(pipe: DiffusionPipeline) -> LLMAdapter:
    """The adapter that `load_adapter` put into a pipeline."""
    if "llm_adapter" not in vars(pipe):
        raise ValueError("the pipeline has no adapter: load one first")
    adapter = pipe.llm_adapter
    assert isinstance(adapter, LLMAdapter)
    return adapter


class PromptEncoder:
    """Stands in for a pipeline's ``encode_prompt``: the adapter's context goes where text features went.

    Everything a pipeline does with prompt embeddings (repeating, guidance, callbacks, giving them back as
    ``prompt_embeds``) works on the context, because it is one tensor that carries its padding.
    """

    def __init__(self, pipe: DiffusionPipeline, adapter: LLMAdapter, encoder: TextEncoder) -> None:
        self.pipe = pipe
        self.adapter = adapter
        self.encoder = encoder
        self.original = pipe.encode_prompt

    def __call__(
        self,
        prompt: str | list[str] | None,
        device: torch.device | None = None,
        num_images_per_prompt: int = 1,
        do_classifier_free_guidance: bool = True,
        negative_prompt: str | list[str] | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        **options: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """Contexts of prompts and negative prompts, ``(prompt * num_images_per_prompt, token, channel)`` each."""
        device = device or self.pipe._execution_device
        given = prompt_embeds
        if given is None:
            given = self.context([prompt] if isinstance(prompt, str) else prompt or [], device, options)
        if not do_classifier_free_guidance:
            return given.repeat_interleave(num_images_per_prompt, dim=0), None
        without = negative_prompt_embeds
        if without is None:
            without = self.context(negatives(negative_prompt, len(given)), device, options)
        given, without = (x.repeat_interleave(num_images_per_prompt, dim=0) for x in same_length(given, without))
        return given, without

    @torch.no_grad()
    def context(self, captions: list[str], device: torch.device, options: dict[str, Any]) -> Tensor:
        encodings, mask = pad([encoding.to(device) for encoding in self.encoder(captions)])
        base = None
        if self.adapter.config.base_tokens:
            base = self.original(captions, device, 1, False, **options)[0]
        adapter = self.adapter.to(device)
        return adapter.context(encodings, mask.to(device), base).to(self.pipe.unet.dtype)


def negatives(negative_prompt: str | list[str] | None, count: int) -> list[str]:
    """One negative prompt for each prompt; none given is the empty caption, as in training."""
    if negative_prompt is None or isinstance(negative_prompt, str):
        return [negative_prompt or ""] * count
    if len(negative_prompt) != count:
        raise ValueError(f"expected {count} negative prompts, one a prompt, found {len(negative_prompt)}")
    return negative_prompt


def same_length(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Pads the shorter context with rows of zeros, which the adapter knows as padding."""
    longest = max(a.shape[1], b.shape[1])
    pad_to = torch.nn.functional.pad
    return pad_to(a, (0, 0, 0, longest - a.shape[1])), pad_to(b, (0, 0, 0, longest - b.shape[1]))


def find_encoder(
    pipe: DiffusionPipeline, config: AdapterConfig, llm: str | os.PathLike[str] | TextEncoder | None
) -> TextEncoder:
    """The encoder that the adapter names: the base's own, or the LLM with the settings that it was trained with."""
    if config.encoder == "base":
        return BaseTextEncoder(pipe.text_encoder, pipe.tokenizer)
    if llm is None:
        raise ValueError(
            f"the adapter reads an LLM's encodings: expected the folder or name of {config.llm}, found none"
        )
    if not isinstance(llm, str | os.PathLike):
        return llm
    from llmdiff.encoder import Encoder

    return Encoder.from_pretrained(os.fspath(llm), encoder_settings(config), device=pipe.unet.device)


def encoder_settings(config: AdapterConfig) -> EncoderConfig:
    """The settings in an encoder's description; None there is a setting without effect."""
    from llmdiff.encoder import EncoderConfig

    names = [field.name for field in dataclasses.fields(EncoderConfig)]
    settings = {
        name: value for name, value in config.encoder_description.items() if name in names and value is not None
    }
    for name in (
        "g",
        "h",
    ):  # one number a block, there; a constant one lets an LLM of another depth get as far as the check
        if len(set(settings.get(name, ()))) == 1:
            settings[name] = settings[name][0]
    return EncoderConfig.from_dict(settings)


def check_encoder(adapter: str | os.PathLike[str], config: AdapterConfig, encoder: TextEncoder) -> None:
    """ValueError, naming both, where an encoder is not the one that the adapter was trained with."""
    if encoder.hidden_size != config.encoding_dim:
        raise ValueError(
            f"{adapter}: the adapter was trained on encodings of width {config.encoding_dim} ({config.llm}), "
            f"the LLM's is {encoder.hidden_size}"
        )
    expected, found = config.encoder_description, encoder.describe()
    if different := sorted(key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key)):
        key = different[0]
        raise ValueError(
            f"{adapter}: the adapter was trained with another encoder: {key}: expected {expected.get(key)!r} "
            f"(fingerprint {config.encoder_fingerprint}), found {found.get(key)!r}"
        )
