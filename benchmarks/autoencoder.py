"""SD 1.5's autoencoder in each precision and memory format: pictures a second, memory, error against float32.

Random weights, smooth random pictures.

    python benchmarks/autoencoder.py
    python benchmarks/autoencoder.py --quick --results /tmp/autoencoder
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from common.measure import RESULTS, append_row, device_name, interleaved, peak_bytes, quantiles, versions
from common.models import make_vae
from torch import Tensor

from llmdiff.diffusion.latents import LatentEncoder

DTYPES = {  # dtype and memory format of the weights, and whether float32 products are in TF32
    "float32": (torch.float32, False, torch.preserve_format),
    "tf32": (torch.float32, True, torch.preserve_format),
    "bfloat16": (torch.bfloat16, False, torch.preserve_format),
    "float16": (torch.float16, False, torch.preserve_format),
    "float32, channels_last": (torch.float32, False, torch.channels_last),
    "tf32, channels_last": (torch.float32, True, torch.channels_last),
    "bfloat16, channels_last": (torch.bfloat16, False, torch.channels_last),
}


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse(argv)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    size = 64 if arguments.quick else 512
    batch = arguments.batch or (16 if device.type == "cuda" else 1)
    rounds = arguments.rounds or (5 if device.type == "cuda" else 2)
    images = smooth_images(batch, size)
    exact = None
    for name, (dtype, tf32, memory_format) in DTYPES.items():
        vae = make_vae(arguments.quick, device).to(dtype=dtype).to(memory_format=memory_format)
        encoder = LatentEncoder(vae, at_once=batch)
        with products_in_tf32(tf32):
            latents = encoder(images).float().cpu()
            peak = peak_bytes(lambda encoder=encoder: encoder(images), device)
            times = interleaved({name: lambda encoder=encoder: encoder(images)}, device, rounds)[name]
        exact = latents if exact is None else exact
        low, middle, high = (batch / seconds for seconds in quantiles(times)[::-1])
        row = {
            "device": device_name(device),
            "versions": versions(),
            "model": "small" if arguments.quick else "SD 1.5",
            "dtype": name,
            "batch": batch,
            "size": size,
            "p20_per_s": low,
            "pictures_per_s": middle,
            "p80_per_s": high,
            "error": float((latents - exact).norm() / exact.norm()),
            "peak_mb": peak / 1e6,
        }
        append_row("autoencoder", row, arguments.results)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, help="16 on a GPU, 1 on a CPU")
    parser.add_argument("--rounds", type=int, help="5 on a GPU, 2 on a CPU")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of autoencoder.csv")
    parser.add_argument("--quick", action="store_true", help="a small autoencoder, to try the script")
    return parser.parse_args(argv)


def smooth_images(count: int, size: int) -> Tensor:
    """Return random pictures without noise of single pixels: ``(batch, size, size, 3)`` uint8."""
    coarse = torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    fine = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bicubic").clamp(0, 1)
    return (255 * fine).round().byte().permute(0, 2, 3, 1)


@contextmanager
def products_in_tf32(on: bool) -> Iterator[None]:
    """Turn TF32 on or off for matrix products and convolutions of float32."""
    backends = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [backend.allow_tf32 for backend in backends]
    for backend in backends:
        backend.allow_tf32 = on
    try:
        yield
    finally:
        for backend, value in zip(backends, before, strict=True):
            backend.allow_tf32 = value


if __name__ == "__main__":
    main()
