"""The Triton kernel against its PyTorch reference on the CPU: ``python -m tests.kernels.compare cuda``.

A process of its own, for the tests' own has Triton's interpreter set. Prints what was compared.
"""

from __future__ import annotations

import itertools
import os
import random
import sys
from collections.abc import Sequence

import torch
from torch import Tensor

from kernels.langevin import TokenRows, gaussian, langevin_step

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
SHAPES = ((1, 1), (5, 41), (41, 401), (6, 2049))
TERMS = ((False, False), (True, False), (False, True), (True, True))
CLOSE = {"rtol": 1e-5, "atol": 1e-5}  # a GPU's logarithm, sine and fused multiply-add round differently
BANDS = 3
TURNS = 3  # of what the other switches can be, for each dtype, shape, noise and raggedness


def main(argv: Sequence[str] | None = None) -> None:
    (device,) = sys.argv[1:] if argv is None else argv
    torch.manual_seed(0)
    shapes = SHAPES[1:2] if device == "cpu" else SHAPES  # Triton's interpreter takes its time
    rest = list(itertools.product(TERMS, (False, True), (None, *DTYPES)))
    others = itertools.cycle(random.Random(0).sample(rest, len(rest)))  # all of them; every kernel is compiled anew
    for dtype, shape, noisy, ragged in itertools.product(DTYPES, shapes, (False, True), (False, True)):
        for terms, accumulate, out_dtype in itertools.islice(others, TURNS):
            compare_step(device, shape, dtype, terms, 0.7 if noisy else 0.0, ragged, accumulate, out_dtype)
    for seed, block in itertools.product((0, -1, 2**35 + 1, -(2**63), 2**63 - 1), (0, 4095)):
        compare_noise(device, seed, block)
    print("compared", *DTYPES, "noise", device, "interpreted" if os.environ.get("TRITON_INTERPRET") else "compiled")


def compare_step(
    device: str,
    shape: tuple[int, int],
    dtype: torch.dtype,
    terms: tuple[bool, bool],
    h: float,
    ragged: bool,
    accumulate: bool,
    out_dtype: torch.dtype | None,
) -> None:
    """Compare one band of an encoding that is NaN where it is not to be read; ragged outputs are padded."""
    count, hidden = shape
    plus, also, minus = (torch.randn(2 * count, hidden).to(dtype)[: None if ragged else count] for _ in range(3))
    operands = (plus, also if terms[0] else None, minus if terms[1] else None)
    rows = rows_of(count, ragged)
    c = torch.full((count, BANDS, hidden), torch.nan)
    if accumulate:
        c[:, 1] = torch.randn(shape)
    settings = {"g": 0.3, "h": h, "seed": -3, "block": 9, "accumulate": accumulate}
    found, expected = (
        step(c, operands, rows, settings, out_dtype, *where) for where in ((device, "triton"), ("cpu", "torch"))
    )
    close = CLOSE if out_dtype in (None, torch.float32) else {"rtol": 2.0**-7, "atol": 1e-5}
    torch.testing.assert_close(found.cpu(), expected, **close, equal_nan=True)


def step(
    c: Tensor,
    operands: tuple[Tensor | None, ...],
    rows: TokenRows,
    settings: dict,
    out_dtype: torch.dtype | None,
    device: str,
    backend: str,
) -> Tensor:
    """What the backend makes of copies on the device: every band, or ``out``."""
    c = c.clone().to(device)
    out = None if out_dtype is None else torch.full_like(c[:, 1], torch.nan, dtype=out_dtype)
    source = None if rows.source is None else rows.source.to(device)
    there = TokenRows(position=rows.position.to(device), caption=rows.caption.to(device), source=source)
    moved = (None if term is None else term.to(device) for term in operands)
    langevin_step(c[:, 1], *moved, rows=there, out=out, backend=backend, **settings)
    return c if out is None else out


def rows_of(count: int, ragged: bool) -> TokenRows:
    """Captions of three tokens; every second row of the outputs and one row of padding where ragged."""
    position = torch.arange(count, dtype=torch.int32) % 3
    if ragged:
        position[-1] = -1
    source = 2 * torch.arange(count, dtype=torch.int32) if ragged else None
    return TokenRows(position=position, caption=(torch.arange(count) // 3 + 7) * -(2**40) - 3, source=source)


def compare_noise(device: str, seed: int, block: int) -> None:
    """Compare the noise at the ends of every index."""
    position = torch.tensor([0, 1, 2**31 - 1, 5], dtype=torch.int32)
    rows = TokenRows(position=position, caption=torch.tensor([0, -1, 2**63 - 1, -(2**63)]))
    there = TokenRows(position=position.to(device), caption=rows.caption.to(device))
    nothing = torch.zeros(4, 401, device=device)
    settings = {"g": 1.0, "h": 0.5, "seed": seed, "block": block, "accumulate": False}
    found = langevin_step(torch.empty_like(nothing), nothing, rows=there, **settings, backend="triton")
    torch.testing.assert_close(found.cpu(), gaussian(rows, 401, seed, block), **CLOSE)


if __name__ == "__main__":
    main()
