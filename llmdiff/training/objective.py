"""The loss of one batch: denoise latents under the adapter's context. Everything random follows from a seed."""

from __future__ import annotations

import hashlib
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, NamedTuple

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from llmdiff.adapter import LLMAdapter
from llmdiff.adapter.padding import replace
from llmdiff.diffusion.base import snr_weights, training_target
from llmdiff.training.config import TrainConfig

if TYPE_CHECKING:
    from storage.reader import Batch


class Null(NamedTuple):
    """The empty caption's encoding ``([band,] token, hidden)``, and the base's own ``(token, hidden)`` or None."""

    encoding: Tensor
    base: Tensor | None


class Objective(nn.Module):
    """Denoising loss of the adapter on a frozen U-Net; ``forward`` is what DeepSpeed wraps.

    The U-Net is no submodule of it: DeepSpeed neither partitions it nor writes it to a checkpoint.
    """

    def __init__(
        self, adapter: LLMAdapter, unet: UNet2DConditionModel, schedule: DDPMScheduler, null: Null, config: TrainConfig
    ) -> None:
        super().__init__()
        self.adapter = adapter
        self.frozen = (unet,)
        self.schedule = schedule
        self.null = null
        self.config = config

    def forward(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Mean loss; and for the log, each sample's unweighted loss ``(batch,)`` and timestep ``(batch,)``."""
        (unet,) = self.frozen
        latents = batch.latents.to(unet.device, torch.float32)  # (b, c, h, w)
        noise = torch.randn(latents.shape, generator=generator, device=latents.device)
        timesteps = self.draw_timesteps(len(latents), generator)  # (b,)
        dropped = self.draw(len(latents), generator) < self.config.caption_dropout  # (b,)
        noisy = self.schedule.add_noise(latents, noise, timesteps)
        target = training_target(self.schedule, latents, noise, timesteps)
        with autocast(latents.device, self.config.precision):
            context = self.context(batch, dropped)  # (b, t, d)
            predicted = unet(noisy.to(unet.dtype), timesteps, encoder_hidden_states=context.to(unet.dtype)).sample
        losses = (predicted.float() - target).square().mean(dim=(1, 2, 3))  # (b,)
        return (losses * self.weights(timesteps)).mean(), losses.detach(), timesteps

    def context(self, batch: Batch, dropped: Tensor) -> Tensor:
        """The batch's context, with the empty caption in place of the `dropped` ones."""
        device = dropped.device
        encodings, mask = batch.encodings.to(device), batch.mask.to(device)
        encodings, mask = replace(encodings, mask, self.null.encoding.to(device), dropped)
        if self.null.base is None:
            return self.adapter.context(encodings, mask)
        assert batch.base_encodings is not None
        base = torch.where(dropped[:, None, None], self.null.base.to(device), batch.base_encodings.to(device))
        return self.adapter.context(encodings, mask, base)

    def weights(self, timesteps: Tensor) -> Tensor:
        if self.config.min_snr_gamma is None:
            return torch.ones_like(timesteps, dtype=torch.float32)
        return snr_weights(self.schedule, timesteps, self.config.min_snr_gamma)

    def draw_timesteps(self, count: int, generator: torch.Generator) -> Tensor:
        steps = self.schedule.config.num_train_timesteps
        return (steps * self.draw(count, generator) ** self.config.timestep_exponent).long().clamp(max=steps - 1)

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        return torch.rand(count, generator=generator, device=generator.device)


def step_generator(seed: int, micro_step: int, rank: int, device: torch.device) -> torch.Generator:
    """Randomness as a function of the place in the run: a resumed run needs no saved generator."""
    digest = hashlib.blake2b(f"{seed}/{micro_step}/{rank}".encode(), digest_size=7).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest, "big"))


def plain_attention(device: torch.device) -> AbstractContextManager[None]:
    """On a CPU, attention without the flash kernel, whose backward pass is slow; recomputed activations need it too."""
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """bfloat16 where the precision says so."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")
