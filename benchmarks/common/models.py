"""Stable Diffusion 1.5's real U-Net and autoencoder with random weights, and a batch for them. Needs no store."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

ROOT = Path(__file__).parents[2]
SHAPES = runpy.run_path(str(ROOT / "tests" / "real_shapes.py"))  # the real configurations that the tests use
SMALL = {"block_out_channels": (32, 32, 32, 32), "norm_num_groups": 8, "layers_per_block": 1}  # to try the script
SMALL_VAE = {"block_out_channels": (8, 16, 16, 16), "norm_num_groups": 4}
SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def make_unet(quick: bool, dtype: torch.dtype, device: torch.device) -> UNet2DConditionModel:
    """Make the U-Net, frozen; 860 M parameters, 3.4 GB in float32. With `quick` a small one of the same layout."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(**{**SHAPES["UNET"], **(SMALL if quick else {})})
    unet = torch.nn.Module.to(unet, dtype).to_empty(device=device)  # diffusers' own `to` warns
    torch.manual_seed(0)
    SHAPES["fill"](unet)
    return unet.requires_grad_(False).eval()


def make_vae(quick: bool, device: torch.device) -> AutoencoderKL:
    """Make the autoencoder in float32, frozen. With `quick` a small one."""
    torch.manual_seed(0)
    vae = AutoencoderKL(**{**SHAPES["VAE"], **(SMALL_VAE if quick else {})})
    return vae.to(device).requires_grad_(False).eval()


def make_batch(size: int, side: int, width: int, tokens: int) -> Any:
    """Make a batch in memory, with the fields of the reader's that a training step asks for."""
    return SimpleNamespace(
        encodings=torch.randn(size, tokens, width).bfloat16(),
        mask=torch.ones(size, tokens, dtype=torch.bool),
        base_encodings=None,
        latents=torch.randn(size, 4, side, side).half(),
        caption_hashes=[str(i) for i in range(size)],
        rows=[("made", i) for i in range(size)],
        repeats=None,
    )
