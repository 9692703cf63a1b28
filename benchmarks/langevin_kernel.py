"""The Langevin kernel: bytes a second over a device copy of the same run, and times over eager and compiled PyTorch.

On a GPU the Triton kernel is measured. Without one, the PyTorch path that a CPU takes is, and it is said so.

    python benchmarks/langevin_kernel.py --rows 16384 --hidden 2048 4096
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from common.measure import RESULTS, append_row, device_name, interleaved, quantiles, versions
from torch import Tensor

from kernels.langevin import TokenRows, langevin_step

GOALS = {"over_copy_goal": 0.85, "over_eager_goal": 3.0, "over_compiled_goal": 1.2}  # on a GPU
PARTS = ["step", "noise"]
REPEATS = 20
CASES = {  # what a block gives on each path: (also, minus, h)
    "sequential blocks": (True, True, 0.0),
    "parallel blocks": (False, False, 0.0),
    "isolated path": (True, False, 0.0),
    "sequential blocks, cached noise": (True, True, 0.1),
}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, help="tokens in a batch (16384 on a GPU, 2048 on a CPU)")
    parser.add_argument("--hidden", type=int, nargs="+", default=[2048, 4096])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1, help="threads on a CPU")
    parser.add_argument("--part", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of langevin_kernel.csv")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        print("No GPU is at hand: the Triton kernel is NOT measured. These rows are the PyTorch path's, on this CPU.")
    rows = arguments.rows or (16384 if device.type == "cuda" else 2048)
    for hidden in arguments.hidden:
        for case in CASES if "step" in arguments.part else ():
            append_row("langevin_kernel", measure(case, rows, hidden, device, arguments.rounds), arguments.results)
        if "noise" in arguments.part and (device.type == "cuda" or "TRITON_INTERPRET" in os.environ):
            for row in measure_noise(rows, hidden, device, arguments.rounds):
                append_row("langevin_kernel", row, arguments.results)


def measure(case: str, count: int, hidden: int, device: torch.device, rounds: int) -> dict[str, Any]:
    """Measure one row of the CSV."""
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
        torch.compiler.reset()  # each case is compiled for itself
        compiled = torch.compile(eager)
        runs["compiled"] = lambda: compiled(c, plus, other, taken, position, 0.5, h)
    times = times_of(runs, device, rounds)
    moved = 2 * c.nbytes + sum(term.nbytes for term in terms)
    return {
        **facts(device, "triton" if on_gpu else "torch (no GPU at hand)", case, count, hidden),
        **speeds(times["kernel"], moved / times["kernel"][1], 2 * c.nbytes / times["copy"][1]),
        "over_eager": times["eager"][1] / times["kernel"][1],
        "over_compiled": times["compiled"][1] / times["kernel"][1] if on_gpu else math.nan,
        **GOALS,
    }


def measure_noise(count: int, hidden: int, device: torch.device, rounds: int) -> list[dict[str, Any]]:
    """Add rows of the noise alone, up to each of its stages: what Philox and Box-Muller add to writing numbers."""
    from common.noise_kernel import STAGES, write_noise

    out = torch.empty(count, hidden, device=device)
    runs: dict[str, Callable[[], object]] = {
        name: lambda stage=stage: write_noise(out, stage) for stage, name in enumerate(STAGES)
    }
    times = times_of({**runs, "copy": copy_of_bytes(out)}, device, rounds)
    ceiling = 2 * out.nbytes / times["copy"][1]
    rest = dict.fromkeys(("over_eager", "over_compiled", *GOALS), math.nan)
    return [
        {
            **facts(device, "triton", f"noise alone: {name}", count, hidden),
            **speeds(times[name], out.nbytes / times[name][1], ceiling),
            **rest,
        }
        for name in STAGES
    ]


def times_of(
    runs: dict[str, Callable[[], object]], device: torch.device, rounds: int
) -> dict[str, tuple[float, float, float]]:
    """Return quantiles of each run's seconds. A GPU gets many runs at once, so that starting one takes no time."""
    times = REPEATS if device.type == "cuda" else 1

    def repeated(run: Callable[[], object]) -> Callable[[], object]:
        return lambda: [run() for _ in range(times)]

    found = interleaved({name: repeated(run) for name, run in runs.items()}, device, rounds)
    return {name: quantiles([value / times for value in values]) for name, values in found.items()}


def facts(device: torch.device, backend: str, case: str, count: int, hidden: int) -> dict[str, Any]:
    """Return what was measured on what."""
    shape = {"case": case, "rows": count, "hidden": hidden}
    return {"device": device_name(device), "versions": versions(), "backend": backend, **shape}


def speeds(times: tuple[float, float, float], speed: float, ceiling: float) -> dict[str, float]:
    """Return milliseconds, and bytes a second beside those of a copy."""
    in_ms = dict(zip(("p20_ms", "p50_ms", "p80_ms"), (1e3 * value for value in times), strict=True))
    return {**in_ms, "gb_per_s": speed / 1e9, "copy_gb_per_s": ceiling / 1e9, "over_copy": speed / ceiling}


def eager(
    c: Tensor, plus: Tensor, also: Tensor | None, minus: Tensor | None, position: Tensor, g: float, h: float
) -> Tensor:
    """Run the step as one would write it in PyTorch, its noise from the global generator."""
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
    """Return a copy between two tensors of this size: the ceiling of anything that moves bytes."""
    source, target = torch.zeros_like(like), torch.empty_like(like)
    return lambda: target.copy_(source)


if __name__ == "__main__":
    main()
