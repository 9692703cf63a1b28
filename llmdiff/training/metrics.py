"""A run's log: ``metrics.jsonl``, a row for every few steps, and the progress bar."""

from __future__ import annotations

import json
import math
import sys
import time
from pathlib import Path
from typing import Any, TextIO

import torch
import torch.distributed as dist
from torch import Tensor
from tqdm import tqdm

from llmdiff.adapter import LLMAdapter
from llmdiff.training.checkpoints.state import State
from llmdiff.training.distributed import gathered
from llmdiff.training.rows import row_of

BANDS = 4  # quarters of the noise schedule, the cleanest first


class MetricLogger:
    """Sums losses between two rows, over all processes, and writes the rows on the first one."""

    def __init__(self, path: Path, state: State, total: int, timesteps: int, device: torch.device) -> None:
        """Go on from a checkpoint's `state`; `total` is the number of steps of the whole run."""
        self.timesteps, self.steps = timesteps, total
        self.skipped = state.skipped
        self.sums = torch.zeros(2 + 2 * BANDS, device=device, dtype=torch.float64)
        if state.sums and dist.get_rank() == 0:
            self.sums += torch.tensor(state.sums, device=device, dtype=torch.float64)
        self.file: TextIO | None = None
        self.bar: tqdm[Any] | None = None
        if dist.get_rank() == 0:
            self.file = truncated(path, state.step)
            self.bar = tqdm(
                desc="train", initial=state.step, total=total, unit="step", file=sys.stdout, mininterval=1.0
            )
        self.start, self.waited, self.samples = time.perf_counter(), 0.0, 0

    def add(self, weighted: Tensor, losses: Tensor, timesteps: Tensor) -> None:
        """Add one batch: each sample's weighted loss, plain loss and timestep ``(batch,)``."""
        band = timesteps * BANDS // self.timesteps
        weighted, losses = weighted.double(), losses.double()
        self.sums[0] += weighted.sum()
        self.sums[1] += len(losses)
        self.sums[2 : 2 + BANDS].index_add_(0, band, losses)
        self.sums[2 + BANDS :].index_add_(0, band, torch.ones_like(losses))
        self.samples += len(losses)

    def skip(self, step: int) -> None:
        """Count and show a step that was left out."""
        self.skipped += 1
        if self.bar is not None:
            text = f"step {step}: left out, its loss or gradient is not finite ({self.skipped} so far)"
            self.bar.write(text, file=sys.stdout)

    def advance(self) -> None:
        if self.bar is not None:
            self.bar.update()

    def total(self) -> list[float]:
        """Return the sums over all processes."""
        sums = self.sums.clone()
        dist.all_reduce(sums)
        return sums.tolist()

    def row(self, step: int, adapter: LLMAdapter, learning_rate: float, grad_norm: float) -> None:
        """Write the row of the steps since the last one, unless all of them were left out."""
        loss, samples, *bands = self.total()
        if samples == 0:
            return
        seconds = time.perf_counter() - self.start
        row: dict[str, Any] = {
            "step": step,
            "steps": self.steps,
            "loss": loss / samples,
            "learning_rate": learning_rate,
        }
        row["grad_norm"] = grad_norm if math.isfinite(grad_norm) else None
        row["skipped"] = self.skipped
        row["samples_per_second"] = self.samples * dist.get_world_size() / seconds
        row["data_wait_share"] = self.waited / seconds
        row["loss_by_timestep"] = [
            total / count if count else None for total, count in zip(bands[:BANDS], bands[BANDS:], strict=True)
        ]
        with gathered(adapter):
            row["weights"] = adapter.weights_by_layer()
        if self.file is not None and self.bar is not None:
            self.file.write(json.dumps(row) + "\n")
            self.file.flush()
            self.bar.set_postfix(loss=f"{row['loss']:.4f}", refresh=False)
        self.sums.zero_()
        self.start, self.waited, self.samples = time.perf_counter(), 0.0, 0

    def close(self) -> None:
        if self.file is not None and self.bar is not None:
            self.file.close()
            self.bar.close()


def truncated(path: Path, first: int) -> TextIO:
    """Return the file, opened to append, without rows past step `first`: a resumed run writes those again."""
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    rows = ((line, row_of(line)) for line in lines if line.endswith(b"\n"))
    kept = [line for line, row in rows if row is not None and row["step"] <= first]
    part = path.with_suffix(".part")
    part.write_bytes(b"".join(kept))
    part.replace(path)
    return path.open("a")
