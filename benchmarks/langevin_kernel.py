"""The Langevin kernel: bytes a second over a device copy of the same run, and times over eager and compiled PyTorch.

On a GPU the Triton kernel is measured. Without one, the PyTorch path that a CPU takes is, and it is said so.

    python benchmarks/langevin_kernel.py --rows 16384 --hidden 2048 4096
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import Any

import torch
from common.measure import append_row, device_name, interleaved, quantiles, versions
from torch import Tensor

from kernels.langevin import TokenRows, langevin_step

GOALS = {"over_copy_goal": 0.85, "over_eager_goal": 3.0, "over_compiled_goal": 1.2}  # on a GPU
CASES = {  # what a block gives on each path: (also, minus, h)
    "sequential blocks": (True, True, 0.0),
    "parallel blocks": (False, False, 0.0),
    "isolated path": (True, False, 0.0),
    "sequential blocks, cached noise": (True, True, 0.1),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, help="tokens in a batch (16384 on a GPU, 2048 on a CPU)")
    parser.add_argument("--hidden", type=int, nargs="+", default=[2048, 4096])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1, help="threads on a CPU")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        print("No GPU is at hand: the Triton kernel is NOT measured. These rows are the PyTorch path's, on this CPU.")
    rows = arguments.rows or (16384 if device.type == "cuda" else 2048)
    for hidden in arguments.hidden:
        for case in CASES:
            measure(case, rows, hidden, device, arguments.rounds)


def measure(case: str, count: int, hidden: int, device: torch.device, rounds: int) -> None:
    """One row of the CSV."""
    also, minus, h = CASES[case]
    c = torch.zeros(count, hidden, device=device)
    terms = [torch.randn(count, hidden, device=device).bfloat16() for _ in range(1 + also + minus)]
    plus, other = terms[0], terms[1] if also else None
    taken = terms[2] if minus else None
    position = torch.arange(count, dtype=torch.int32, device=device) % 32
    rows = TokenRows(position=position, caption=torch.arange(count, device=device) // 32)
    step = {"g": 0.5, "h": h, "seed": 1, "block": 2}
    on_gpu = device.type == "cuda"
    runs: dict[str, Callable[[], object]] = {
        "kernel": lambda: langevin_step(c, plus, other, taken, rows=rows, **step),
        "eager": lambda: eager(c, plus, other, taken, position, 0.5, h),
        "copy": copy_of_bytes(c),
    }
    if on_gpu:
        compiled = torch.compile(eager)
        runs["compiled"] = lambda: compiled(c, plus, other, taken, position, 0.5, h)
    times = {name: quantiles(values) for name, values in interleaved(runs, device, rounds).items()}
    moved = 2 * c.nbytes + sum(term.nbytes for term in terms)
    speed, ceiling = moved / times["kernel"][1], 2 * c.nbytes / times["copy"][1]
    row: dict[str, Any] = {
        "device": device_name(device),
        "versions": versions(),
        "backend": "triton" if on_gpu else "torch (no GPU at hand)",
        "case": case,
        "rows": count,
        "hidden": hidden,
        **dict(zip(("p20_ms", "p50_ms", "p80_ms"), (1e3 * value for value in times["kernel"]), strict=True)),
        "gb_per_s": speed / 1e9,
        "copy_gb_per_s": ceiling / 1e9,
        "over_copy": speed / ceiling,
        "over_eager": times["eager"][1] / times["kernel"][1],
        "over_compiled": times["compiled"][1] / times["kernel"][1] if on_gpu else math.nan,
        **GOALS,
    }
    append_row("langevin_kernel", row)


def eager(
    c: Tensor, plus: Tensor, also: Tensor | None, minus: Tensor | None, position: Tensor, g: float, h: float
) -> Tensor:
    """The step as one would write it in PyTorch, its noise from the global generator."""
    score = plus.float()
    if also is not None:
        score = score + also.float()
    if minus is not None:
        score = score - minus.float()
    score = torch.where(position[:, None] == 0, 0.0, score)
    c += g * score
    if h > 0.0:
        c += math.sqrt(2.0 * h) * torch.randn_like(c)
    return c


def copy_of_bytes(like: Tensor) -> Callable[[], object]:
    """A copy between two tensors of this size: the ceiling of anything that moves bytes."""
    source, target = torch.zeros_like(like), torch.empty_like(like)
    return lambda: target.copy_(source)


if __name__ == "__main__":
    main()
