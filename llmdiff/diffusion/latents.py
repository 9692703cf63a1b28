"""The base model's autoencoder: pictures to the latents that training reads, and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image
from safetensors import SafetensorError, safe_open
from torch import Tensor

from llmdiff.compilation import check_compiler, compile_by_shape, uncompiled
from llmdiff.diffusion.base import LOADING, read_config, read_model
from llmdiff.diffusion.fields import check_fields
from llmdiff.diffusion.text import content_hash
from llmdiff.encoder.batching import BatchBudget, run_in_batches
from llmdiff.model_files.model_folders import first_line

AT_ONCE = 16
"""Most pictures in one pass of the autoencoder, unless memory runs out."""


class LatentEncoder:
    """Deterministic latents: the mean of the autoencoder's distribution, times its scaling factor.

    Args:
        vae: the autoencoder, its weights in the dtype of its passes.
        at_once: the most pictures of a pass. It is halved from then on whenever memory runs out.

    Raises:
        ValueError: the autoencoder's latents are normalised by more than a factor.
    """

    def __init__(self, vae: AutoencoderKL, at_once: int = AT_ONCE) -> None:
        for setting in ("shift_factor", "latents_mean", "latents_std"):
            if (found := vae.config.get(setting)) is not None:
                raise ValueError(f"the autoencoder has {setting} {found!r}, expected None: a scaling_factor alone")
        self.vae, self.at_once, self.compiled = vae, at_once, False
        self._budget = BatchBudget(at_once, item="picture", unit="pictures")

    @classmethod
    def from_pretrained(
        cls,
        base: str,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        at_once: int = AT_ONCE,
        *,
        torch_compile: bool = False,
        channels_last: bool = False,
    ) -> LatentEncoder:
        """Return the autoencoder of a Stable Diffusion: folder, name or single file.

        `torch_compile` compiles what makes latents, and `channels_last` is the memory format of convolutions; both move
        latents by rounding. ValueError, by file and field, for an autoencoder that gives none.
        """
        check_autoencoder(base)
        vae = read_model(base, "vae", AutoencoderKL, dtype=dtype, **LOADING)
        vae = vae.requires_grad_(False).eval().to(device)
        if channels_last:
            vae.to(memory_format=torch.channels_last)
        encoder = cls(vae, at_once)
        if torch_compile:
            encoder.compile()
        return encoder

    def compile(self) -> None:
        """Compile what makes latents, for each size of picture and as many as a pass takes."""
        check_compiler()
        compile_by_shape(self.vae.encoder)
        self.compiled = True

    @property
    def factor(self) -> int:
        """Side of the square of pixels that becomes one latent."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    @torch.no_grad()
    def __call__(self, images: Tensor | np.ndarray) -> Tensor:
        """Return latents ``(batch, channel, height/f, width/f)`` float16 of images ``(batch, height, width, 3)`` uint8.

        Raises:
            ValueError: the images are of another dtype or shape.
            MemoryError: one of them alone does not fit into memory.
        """
        pixels = torch.as_tensor(images)
        if pixels.ndim != 4 or pixels.shape[-1] != 3 or pixels.dtype != torch.uint8:
            raise ValueError(
                f"expected uint8 images (batch, height, width, 3), found {pixels.dtype} {tuple(pixels.shape)}"
            )
        if pixels.shape[1] % self.factor or pixels.shape[2] % self.factor:
            raise ValueError(f"expected sides divisible by {self.factor}, found {tuple(pixels.shape[1:3])}")

        def run(indices: list[int]) -> Tensor:  # consecutive indices
            part = pixels[indices[0] : indices[-1] + 1].to(self.vae.device)
            scaled = (part.permute(0, 3, 1, 2).to(torch.float32) / 127.5 - 1).to(self.vae.dtype)
            with uncompiled(self.compiled and len(part) < self._budget.tokens):  # compiled for whole passes only
                latents = self.vae.encode(scaled).latent_dist.mean
            return (latents.float() * self.vae.config.scaling_factor).half()

        return torch.cat([latents for _, latents in run_in_batches([1] * len(pixels), self._budget, run)])

    @torch.no_grad()
    def decode(self, latents: Tensor) -> np.ndarray:
        """Decode latents ``(batch, channel, h, w)`` of `__call__` to images ``(batch, height, width, 3)`` uint8."""
        scaled = latents.to(self.vae.device, torch.float32) / self.vae.config.scaling_factor
        pixels = self.vae.decode(scaled.to(self.vae.dtype)).sample.float().clamp(-1, 1)
        return ((pixels + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()

    def describe(self) -> dict[str, Any]:
        """Return what the latents depend on, for their key in the store; a dtype other than float32 is part of it."""
        dtype = str(self.vae.dtype).removeprefix("torch.")
        return {
            "kind": "vae",
            "model": type(self.vae).__name__,
            "weights": content_hash(self.vae),
            "scaling_factor": self.vae.config.scaling_factor,
            "formula": "mean/1",
            **({} if dtype == "float32" else {"dtype": dtype}),
        }


def check_autoencoder(base: str) -> None:
    """Raise ValueError, by file and field, for an autoencoder's configuration that gives no latents; see `FIELDS`."""
    check_fields("vae", read_config(base, "vae", AutoencoderKL.load_config), base)


def decode_samples(path: Path, latent_encoder: LatentEncoder) -> list[tuple[str, Image.Image]]:
    """Return the prompts and pictures of a ``samples/step-….safetensors`` that training wrote.

    ValueError naming the file where it is damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            prompts, latents = json.loads(file.metadata()["prompts"]), file.get_tensor("latents")
    except (SafetensorError, OSError, ValueError, LookupError, TypeError) as error:
        raise ValueError(f"{path}: expected validation samples: {first_line(error)}") from error
    images = [Image.fromarray(pixels) for pixels in latent_encoder.decode(latents)]
    return list(zip(prompts, images, strict=True))
