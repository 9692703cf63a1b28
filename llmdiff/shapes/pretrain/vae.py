"""The embedded autoencoder: an `AutoencoderKL` that takes 64x64 pictures to 4x8x8 latents."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL

from llmdiff.shapes.pretrain.common import fast_cpu_math, save_fp16, train, write_card
from llmdiff.shapes.render import render_scene
from llmdiff.shapes.shards import random_scene

SEED, STEPS, BATCH, POOL = 0, 2000, 24, 6000


def pretrain_vae(folder: Path, steps: int = STEPS) -> None:
    """Train the autoencoder on drawn pictures and save it with its card under ``folder/vae``."""
    torch.manual_seed(SEED)
    rng = np.random.default_rng(SEED)
    pictures = draw_pool(rng, POOL)
    vae = AutoencoderKL(
        block_out_channels=(16, 32, 48, 64),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=64,
    )

    def loss_of(step: int) -> torch.Tensor:
        x = pictures[torch.from_numpy(rng.integers(POOL, size=BATCH))].float() / 127.5 - 1  # (b, c, h, w)
        with fast_cpu_math():
            posterior = vae.encode(x).latent_dist
            decoded = vae.decode(posterior.sample()).sample
        error = decoded.float() - x
        return error.abs().mean() + error.square().mean() + 1e-4 * posterior.kl().mean() / 256

    figures = train("vae", list(vae.parameters()), loss_of, steps, 2e-3)
    with torch.no_grad(), fast_cpu_math():
        x = pictures[:512].float() / 127.5 - 1
        latents = torch.cat([vae.encode(part).latent_dist.mean.float() for part in x.split(64)])
        decoded = torch.cat([vae.decode(part).sample.float() for part in latents.split(64)])
    vae.register_to_config(scaling_factor=round(1 / latents.std().item(), 5))
    figures["psnr_db"] = round(10 * float(torch.log10(4 / (decoded.clamp(-1, 1) - x).square().mean())), 2)
    save_fp16(vae, folder / "vae")
    write_card(
        folder / "vae",
        data=f"{POOL} drawn scenes of one to three things, none with a held-out pair",
        command="python -m llmdiff.shapes.pretrain vae",
        seed=SEED,
        batch=BATCH,
        figures=figures,
    )


def draw_pool(rng: np.random.Generator, count: int) -> torch.Tensor:
    """Return pictures of `count` training scenes, ``(scene, channel, height, width)`` uint8."""
    pictures = np.stack([render_scene(random_scene(rng)) for _ in range(count)])
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous()
