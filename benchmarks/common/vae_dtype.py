"""How far latents of a bfloat16 pass are off, beside what storing them in float16 rounds away."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from common.encode_pictures import VAE
from common.measure import append_row, device_name, versions
from llmdiff.data.images import load_image

SIZE, PICTURES = 256, 4


@torch.no_grad()
def measure_dtype(photos: Path, device: torch.device) -> None:
    """Add a row for SD 1.5's autoencoder with random weights, on photographs; errors are relative, of all numbers."""
    torch.manual_seed(0)
    vae = AutoencoderKL(**VAE).eval().to(device)
    files = sorted(photos.glob("*.JPEG"))[:PICTURES]
    squares = np.stack([load_image(file.read_bytes(), SIZE)[0] for file in files])
    pixels = torch.from_numpy(squares).permute(0, 3, 1, 2).to(device).float() / 127.5 - 1
    exact = vae.encode(pixels).latent_dist.mean
    low: Any = vae.to(torch.bfloat16)
    found = low.encode(pixels.bfloat16()).latent_dist.mean.float()
    row = {
        "device": device_name(device),
        "versions": versions(),
        "pictures": PICTURES,
        "size": SIZE,
        "bfloat16_pass": error(found, exact),
        "bfloat16_result_alone": error(exact.bfloat16().float(), exact),
        "float16_storage": error(exact.half().float(), exact),
    }
    append_row("vae_dtype", row)


def error(found: Tensor, exact: Tensor) -> float:
    return float((found - exact).norm() / exact.norm())
