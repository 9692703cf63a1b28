"""Reads the parts of a Stable Diffusion folder (or hub name) that training needs, and no others."""

from __future__ import annotations

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from diffusers.utils import is_accelerate_available
from torch import Tensor

# No pickled weights; and without accelerate, diffusers would warn at each model that it loads it the plain way.
LOADING = {"use_safetensors": True, "low_cpu_mem_usage": is_accelerate_available()}


def load_unet(base: str, dtype: torch.dtype = torch.float32) -> UNet2DConditionModel:
    """The frozen U-Net, in evaluation mode and without gradients."""
    unet = UNet2DConditionModel.from_pretrained(base, subfolder="unet", dtype=dtype, **LOADING)
    return unet.requires_grad_(False).eval()


def load_noise_schedule(base: str) -> DDPMScheduler:
    """The base's training noise schedule, whichever sampler its folder names."""
    return DDPMScheduler.from_config(DDPMScheduler.load_config(base, subfolder="scheduler"))


def training_target(schedule: DDPMScheduler, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """What the base was trained to predict: noise, velocity (arXiv 2202.00512, appendix D) or the latents."""
    targets = {
        "epsilon": lambda: noise,
        "v_prediction": lambda: schedule.get_velocity(latents, noise, timesteps),
        "sample": lambda: latents,
    }
    kind = schedule.config.prediction_type
    if kind not in targets:
        raise ValueError(f"scheduler_config.json: prediction_type: expected one of {sorted(targets)}, found {kind!r}")
    return targets[kind]()


def snr_weights(schedule: DDPMScheduler, timesteps: Tensor, gamma: float) -> Tensor:
    """Min-SNR loss weights ``(batch,)`` (arXiv 2303.09556): ``min(snr, gamma)`` in terms of the predicted quantity."""
    alpha = schedule.alphas_cumprod.to(timesteps.device)[timesteps].double()
    snr = alpha / (1 - alpha)
    denominators = {"epsilon": snr.clamp(min=1e-8), "v_prediction": snr + 1, "sample": torch.ones_like(snr)}
    return (snr.clamp(max=gamma) / denominators[schedule.config.prediction_type]).float()
