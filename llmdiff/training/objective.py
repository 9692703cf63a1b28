"""The loss of one batch: denoise latents under the adapter's context. Everything random follows from a seed."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from llmdiff.adapter import LLMAdapter
from llmdiff.adapter.padding import lengthen, replace
from llmdiff.compilation import compiled_for_training
from llmdiff.diffusion.base import snr_weights, training_target
from llmdiff.training.config import TrainConfig
from llmdiff.training.data.micro_conditioning import MicroConditioning

if TYPE_CHECKING:
    from storage.reading.dataset import Batch

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class UnconditionalEmbedding(NamedTuple):
    """The empty caption's encoding ``([band,] token, hidden)``, the base's own ``(token, hidden)`` or None, and SDXL's
    pooled one ``(1, hidden)`` or None.
    """

    encoding: Tensor
    base: Tensor | None
    pooled: Tensor | None = None


class Objective(nn.Module):
    """Denoising loss of the adapter on a frozen U-Net; ``forward`` is what DeepSpeed wraps.

    The U-Net is no submodule of it: DeepSpeed neither partitions it nor writes it to a checkpoint.
    """

    def __init__(
        self,
        adapter: LLMAdapter,
        unet: UNet2DConditionModel,
        schedule: DDPMScheduler,
        unconditional: UnconditionalEmbedding,
        config: TrainConfig,
        noise_std: Sequence[float] = (),
        micro_conditioning: MicroConditioning | None = None,
    ) -> None:
        """Take the parts.

        `noise_std`, by band, is that of the Langevin noise that the encoder leaves to each use, or empty for none.
        `micro_conditioning` is what an SDXL base reads besides.
        """
        super().__init__()
        self.adapter = adapter
        self.frozen = (unet,)
        self.schedule = schedule
        self.unconditional = unconditional
        self.config = config
        self.noise_std = tuple(noise_std)
        self.micro_conditioning = micro_conditioning
        self.predict = compiled_for_training(predict) if config.torch_compile else predict

    def forward(
        self, batch: Batch, generators: Sequence[torch.Generator], factor: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the loss of a batch, with a generator for each sample.

        Returns:
            The weighted losses' sum times `factor`; and for the log, each sample's weighted loss, plain loss and
            timestep, ``(batch,)`` each.
        """
        (unet,) = self.frozen
        latents = batch.latents.to(unet.device, torch.float32)  # (b, c, h, w)
        noise = torch.stack([torch.randn(latents.shape[1:], generator=g, device=g.device) for g in generators])
        u = torch.stack([torch.rand(2, generator=g, device=g.device) for g in generators])  # (b, 2)
        timesteps, dropped = self.timesteps(u[:, 0]), u[:, 1] < self.config.caption_dropout  # (b,)
        noisy = self.schedule.add_noise(latents, noise, timesteps)
        target = training_target(self.schedule, latents, noise, timesteps)
        captions = self.captions(batch, dropped, generators)
        of_size = self.micro_conditioning
        conditions = None if of_size is None else of_size.of_batch(batch, dropped)
        with autocast(latents.device, self.config.precision):
            predicted = self.predict(unet, self.adapter, noisy.to(unet.dtype), timesteps, captions, conditions)
        losses = (predicted.float() - target).square().mean(dim=(1, 2, 3))  # (b,)
        weighted = losses * self.weights(timesteps)
        return weighted.sum() * factor, weighted.detach(), losses.detach(), timesteps

    def captions(
        self, batch: Batch, dropped: Tensor, generators: Sequence[torch.Generator]
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return a batch's inputs of `LLMAdapter.context`, with the empty caption in place of the `dropped` ones."""
        device = dropped.device
        encodings, mask = batch.encodings.to(device), batch.mask.to(device)
        encodings, mask = replace(encodings, mask, self.unconditional.encoding.to(device), dropped)
        if any(self.noise_std):
            encodings = noised(encodings, mask, self.noise_std, generators)
        if self.config.torch_compile:
            encodings, mask = lengthen(encodings, mask)
        if self.unconditional.base is None:
            return encodings, mask, None
        assert batch.base_encodings is not None
        base = torch.where(dropped[:, None, None], self.unconditional.base.to(device), batch.base_encodings.to(device))
        return encodings, mask, base

    def weights(self, timesteps: Tensor) -> Tensor:
        if self.config.min_snr_gamma is None:
            return torch.ones_like(timesteps, dtype=torch.float32)
        return snr_weights(self.schedule, timesteps, self.config.min_snr_gamma)

    def timesteps(self, u: Tensor) -> Tensor:
        """Return timesteps from uniform numbers ``(batch,)``."""
        steps = self.schedule.config.num_train_timesteps
        return (steps * u**self.config.timestep_exponent).long().clamp(max=steps - 1)


def prepare_unet(unet: UNet2DConditionModel, config: TrainConfig) -> None:
    """Give a frozen U-Net the memory format and the way of keeping activations that a run asks for."""
    if config.channels_last:
        unet.to(memory_format=torch.channels_last)
    if config.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
        unet.train()  # diffusers recomputes in training mode alone; these U-Nets have no dropout


def predict(
    unet: UNet2DConditionModel,
    adapter: LLMAdapter,
    noisy: Tensor,
    timesteps: Tensor,
    captions: tuple[Tensor, Tensor, Tensor | None],
    conditions: dict[str, Tensor] | None,
) -> Tensor:
    """Return the U-Net's prediction for noisy latents under the adapter's context of captions."""
    context = adapter.context(*captions).to(noisy.dtype)  # (b, t, d)
    predicted: Tensor = unet(noisy, timesteps, encoder_hidden_states=context, added_cond_kwargs=conditions).sample
    return predicted


def noised(encodings: Tensor, mask: Tensor, std: Sequence[float], generators: Sequence[torch.Generator]) -> Tensor:
    """Add the noise of Algorithm 1 to encodings ``(batch, [band,] token, hidden)``, float32; none on the padding."""
    banded = encodings.float().reshape(len(encodings), len(std), *encodings.shape[-2:])  # (b, k, t, d)
    noise = torch.zeros_like(banded)
    for row, tokens, generator in zip(noise, mask.sum(1).tolist(), generators, strict=True):
        row[:, :tokens] = torch.randn(row[:, :tokens].shape, generator=generator, device=generator.device)
    return (banded + noise * banded.new_tensor(std)[:, None, None]).reshape(encodings.shape)


def sample_generators(seed: int, epoch: int, batch: Batch, device: torch.device) -> list[torch.Generator]:
    """Return a generator for each sample, seeded by sample, repeat and epoch: the same on any number of processes."""
    generators = []
    repeats = batch.repeats or [0] * len(batch.rows)
    for (source, row), caption, repeat in zip(batch.rows, batch.caption_hashes, repeats, strict=True):
        name = f"{seed}/{epoch}/{source}/{row}/{caption}" + (f"/{repeat}" if repeat else "")
        digest = hashlib.blake2b(name.encode(), digest_size=7).digest()
        generators.append(torch.Generator(device).manual_seed(int.from_bytes(digest, "big")))
    return generators


def split(batch: Batch, count: int) -> Iterator[tuple[Batch, bool]]:
    """Yield the `count` parts of a batch, and whether each counts.

    Where a batch has too few samples, one of them comes again and does not count, and neither does a borrowed sample.
    """
    size = len(batch.latents)
    for i in range(count):
        first, last = size * i // count, size * (i + 1) // count
        yield part_of(batch, first, max(last, first + 1)), last > first and not batch.borrowed


def part_of(batch: Batch, first: int, last: int) -> Batch:
    """Return some samples of a batch."""
    columns = {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    parts: dict[str, Any] = {
        k: column[first:last] for k, column in columns.items() if isinstance(column, Tensor | list)
    }
    return dataclasses.replace(batch, **parts)


def plain_attention(device: torch.device) -> AbstractContextManager[None]:
    """Skip attention's flash kernel on a CPU, whose backward pass is slow; recomputed activations need this too."""
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return a context in which a pass runs in 16 bits, if the precision says so."""
    return torch.autocast(device.type, dtype=DTYPES[precision], enabled=precision != "fp32")
