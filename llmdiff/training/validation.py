"""Validation samples while training: latents of a fixed set of prompts and seeds, drawn from stored encodings.

Training loads neither LLM nor autoencoder, so the samples stay latents, for `llmdiff.diffusion.latents` to decode.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from safetensors.torch import save
from torch import Tensor

from llmdiff.adapter import LLMAdapter, cross_attention_shapes
from llmdiff.adapter.padding import pad
from llmdiff.sampling import Sampling, denoise, noise
from llmdiff.training.config import TrainConfig
from llmdiff.training.data.stored_encodings import read_encodings
from llmdiff.training.objective import Objective, autocast
from llmdiff.training.optimiser.ema import EMA
from storage import EncodingStore
from storage.io.files import write_file

DRAWN = re.compile(r"step-(?P<step>\d+)\.(?:safetensors|png)|\.step-(?P<part>.*)\.part")
"""Names of the files of samples and of their pictures, whole or partly written."""


class Validation:
    """The prompts' contexts and starting noise, the same at every step."""

    def __init__(self, config: TrainConfig, store: EncodingStore, objective: Objective) -> None:
        self.config = config
        self.objective = objective
        prompts = list(config.validation_prompts)
        self.encodings = read_encodings(store, config.fingerprint, prompts)
        self.base: list[Tensor] = []
        if config.base_fingerprint is not None:
            self.base = read_encodings(store, config.base_fingerprint, prompts)
        self.pooled: list[Tensor] = []
        if config.pooled_fingerprint is not None:
            self.pooled = [row[0] for row in read_encodings(store, config.pooled_fingerprint, prompts)]
        self.sampler = DDIMScheduler.from_config(objective.schedule.config)

    @torch.no_grad()
    def sample(self, step: int, ema: EMA) -> Path:
        """Write ``samples/step-….safetensors``: ``latents`` ``(prompt, c, h, w)`` float32, scaled, and the prompts.

        The file is there whole or not at all.
        """
        (unet,) = self.objective.frozen
        with ema_adapter(self.objective.adapter, unet, ema) as adapter, autocast(unet.device, self.config.precision):
            latents = self.denoise(unet, self.context(adapter, unet))
        path = folder_of(self.config) / f"step-{step:08d}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        about = {"prompts": json.dumps(self.config.validation_prompts)}
        write_file(path, save({"latents": latents.cpu().contiguous()}, about))
        return path

    def denoise(self, unet: UNet2DConditionModel, context: Tensor) -> Tensor:
        """Draw by DDIM with guidance, from the same noise each time: latents ``(prompt, c, h, w)``."""
        side, micro_conditioning = unet.config.sample_size, self.objective.micro_conditioning
        size = (len(self.encodings), unet.config.in_channels, side, side)
        besides = None if micro_conditioning is None else micro_conditioning.of_prompts(self.pooled, side, unet.device)
        latents = torch.randn(size, generator=noise(self.config.seed)).to(unet.device)
        sampling = Sampling(steps=self.config.validation_steps, guidance=self.config.validation_guidance)
        return denoise(unet, self.sampler, latents, context, sampling, besides)

    def context(self, adapter: LLMAdapter, unet: UNet2DConditionModel) -> Tensor:
        """Return the context of the empty caption, then of each prompt: ``(2 prompts, token, channel)``."""
        unconditional, count = self.objective.unconditional, len(self.encodings)
        encodings, mask = pad([unconditional.encoding] * count + self.encodings)
        base = (
            None
            if unconditional.base is None
            else torch.stack([unconditional.base] * count + self.base).to(unet.device)
        )
        return adapter.context(encodings.to(unet.device), mask.to(unet.device), base).to(unet.dtype)


def folder_of(config: TrainConfig) -> Path:
    """Return the folder of a run's samples, and of the pictures that are decoded from them."""
    return Path(config.output) / "samples"


def cut_samples(config: TrainConfig, step: int) -> None:
    """Remove what an interrupted run drew after the `step` from which it goes on, as those steps come again."""
    for path in folder_of(config).glob("*step-*"):
        found = DRAWN.fullmatch(path.name)
        if found is not None and (found["part"] or int(found["step"]) > step):
            path.unlink()


@contextmanager
def ema_adapter(adapter: LLMAdapter, unet: UNet2DConditionModel, ema: EMA) -> Iterator[LLMAdapter]:
    """Put an adapter with the averaged weights in place of the one in training, for the time of the block."""
    copy = LLMAdapter(cross_attention_shapes(unet), adapter.config)
    copy.load_state(ema.tensors)
    adapter.uninstall()
    copy.to(unet.device).install(unet)
    try:
        yield copy
    finally:
        copy.uninstall()
        adapter.install(unet)
