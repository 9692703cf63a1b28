"""Times, peaks of memory, and rows of the tracked CSV files."""

from __future__ import annotations

import csv
import ctypes
import gc
import os
import platform
import re
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parents[1] / "results"


def device_name(device: torch.device) -> str:
    """Return the device in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    model = re.search(r"model name\s*:\s*(.+)", text)
    amx = " with AMX" if "amx_bf16" in text else ""
    return f"{model.group(1).strip() if model else platform.processor()}{amx}, {torch.get_num_threads()} thread(s)"


def versions() -> str:
    """Return the versions that decide a figure."""
    return " ".join(f"{name}-{version(name)}" for name in ("torch", "triton", "transformers"))


def load() -> str:
    """Return how busy the machine is, the measurement included."""
    return f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"


def seconds(run: Callable[[], object], device: torch.device) -> float:
    """Return wall-clock seconds of a run on a GPU, CPU seconds of the process on a CPU: neighbours disturb it less."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        start = time.perf_counter()
        run()
        torch.cuda.synchronize(device)
        return time.perf_counter() - start
    start = time.process_time()
    run()
    return time.process_time() - start


def interleaved(runs: dict[str, Callable[[], object]], device: torch.device, rounds: int) -> dict[str, list[float]]:
    """Return seconds of every run in every round, in turns after one round to warm up: what drifts, drifts for all."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for i in range(rounds + 1):
        for name, run in runs.items():
            taken = seconds(run, device)
            if i > 0:
                times[name].append(taken)
    return times


def quantiles(values: list[float]) -> tuple[float, float, float]:
    """Return the 20th, 50th and 80th percentile."""
    p20, p50, p80 = torch.tensor(values, dtype=torch.float64).quantile(torch.tensor([0.2, 0.5, 0.8]).double()).tolist()
    return p20, p50, p80


def peak_bytes(run: Callable[[], object], device: torch.device) -> int:
    """Return the most memory in use meanwhile: the allocator's on a GPU, the process's resident set on a CPU."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        run()
        return torch.cuda.max_memory_allocated(device)
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    run()
    status = Path("/proc/self/status").read_text()
    found = re.search(r"VmHWM:\s*(\d+) kB", status)
    assert found is not None
    return int(found.group(1)) * 1024


def append_row(name: str, row: dict[str, Any], folder: Path = RESULTS) -> None:
    """Add a row to ``<name>.csv`` in a folder, its columns as in the file's first line; print it too."""
    path = folder / f"{name}.csv"
    path.parent.mkdir(exist_ok=True)
    row = {key: f"{value:.4g}" if isinstance(value, float) else value for key, value in row.items()}
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(row), lineterminator=os.linesep)
        if new:
            writer.writeheader()
        writer.writerow(row)
    print(", ".join(f"{key} {value}" for key, value in row.items()), flush=True)
