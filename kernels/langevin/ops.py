"""Check the arguments, and choose between Triton and PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Literal

import torch
from torch import Tensor

from kernels.langevin import reference
from kernels.langevin.reference import GROUP_BITS, TokenRows

Backend = Literal["auto", "torch", "triton"]
MAX_HIDDEN, MAX_BLOCKS = 4 << GROUP_BITS, 1 << (32 - GROUP_BITS)


def langevin_step(
    c: Tensor,
    plus: Tensor,
    also: Tensor | None = None,
    minus: Tensor | None = None,
    *,
    rows: TokenRows,
    g: float,
    h: float = 0.0,
    seed: int = 0,
    block: int = 0,
    accumulate: bool = True,
    out: Tensor | None = None,
    backend: Backend = "auto",
) -> Tensor:
    """Return ``c <- c + g (plus + also - minus) + sqrt(2 h) eps`` (Algorithm 1), in one pass over memory on a GPU.

    Arguments and result are those of :func:`kernels.langevin.reference.langevin_step`. ``backend="auto"`` takes Triton
    on a CUDA device and PyTorch elsewhere; ``"triton"`` on a CPU needs Triton's interpreter (``TRITON_INTERPRET=1``).

    Raises:
        ValueError: shapes, dtypes or devices do not fit, ``h`` is negative, or a number is out of range.
    """
    _check(c, {"plus": plus, "also": also, "minus": minus}, rows, out, h, seed, block)
    step = _implementation(c, backend)
    return step(c, plus, also, minus, rows=rows, g=g, h=h, seed=seed, block=block, accumulate=accumulate, out=out)


def _implementation(c: Tensor, backend: Backend) -> Callable[..., Tensor]:
    """Return the function of the backend; Triton is imported when it is first wanted."""
    if backend == "auto":
        backend = "triton" if c.is_cuda and c.dtype == torch.float32 and find_spec("triton") else "torch"
    if backend == "torch":
        return reference.langevin_step
    if c.dtype != torch.float32:
        raise ValueError(f"langevin_step: the Triton kernel keeps c in float32, got {c.dtype}")
    from kernels.langevin import triton_impl

    return triton_impl.langevin_step


def _check(
    c: Tensor, terms: dict[str, Tensor | None], rows: TokenRows, out: Tensor | None, h: float, seed: int, block: int
) -> None:
    """Raise ValueError where an assumption of the implementations does not hold."""
    if c.ndim != 2 or c.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"langevin_step: c must be (row, hidden) in float32 or float64, got {tuple(c.shape)} {c.dtype}"
        )
    if len(rows) != c.shape[0] or len(rows.caption) != len(rows):
        raise ValueError(f"langevin_step: rows describe {len(rows)} rows, c has {c.shape[0]}")
    if out is not None and out.shape != c.shape:
        raise ValueError(f"langevin_step: out must be {tuple(c.shape)} like c, got {tuple(out.shape)}")
    for name, term in terms.items():
        if term is None:
            continue
        if term.ndim != 2 or term.shape[1] != c.shape[1] or not term.is_floating_point():
            expected = f"(row, {c.shape[1]}) in a floating dtype"
            raise ValueError(f"langevin_step: {name} must be {expected}, got {tuple(term.shape)} {term.dtype}")
        if rows.source is None and term.shape[0] != c.shape[0]:
            raise ValueError(f"langevin_step: {name} has {term.shape[0]} rows, c {c.shape[0]}, and rows.source is None")
    tensors = [("c", c), ("out", out), *terms.items()]
    for name, tensor in tensors:
        if tensor is not None and tensor.shape[1] > 1 and tensor.stride(1) != 1:
            raise ValueError(
                f"langevin_step: {name} must have its channels side by side, got strides {tensor.stride()}"
            )
        if tensor is not None and tensor.device != rows.device:
            raise ValueError(f"langevin_step: {name} is on {tensor.device}, rows on {rows.device}")
    if h < 0.0:
        raise ValueError(f"langevin_step: h must not be negative, got {h}")
    if not 0 <= block < MAX_BLOCKS or c.shape[1] > MAX_HIDDEN or not -(2**63) <= seed < 2**63:
        raise ValueError(f"langevin_step: block {block}, seed {seed} or width {c.shape[1]} is out of range")
