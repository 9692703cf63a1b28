"""What a run says about itself: ``metrics.jsonl``, a row for every few steps, and the progress bar."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any, TextIO

import torch
import torch.distributed as dist
from torch import Tensor
from tqdm import tqdm

from llmdiff.adapter import LLMAdapter
from llmdiff.training.distributed import gathered

BANDS = 4  # quarters of the noise schedule, the cleanest first


class Meter:
    """Sums losses between two rows, over all processes, and writes the rows on the first one."""

    def __init__(
        self, path: Path, first: int, sums: list[float], total: int, timesteps: int, device: torch.device
    ) -> None:
        """Goes on after step `first` with the `sums` that the checkpoint kept."""
        self.timesteps = timesteps
        self.sums = torch.zeros(2 + 2 * BANDS, device=device)
        if sums and dist.get_rank() == 0:
            self.sums += torch.tensor(sums, device=device)
        self.file: TextIO | None = None
        self.bar: tqdm[Any] | None = None
        if dist.get_rank() == 0:
            self.file = truncated(path, first)
            self.bar = tqdm(desc="train", initial=first, total=total, unit="step", file=sys.stdout, mininterval=1.0)
        self.start, self.waited, self.samples = time.perf_counter(), 0.0, 0

    def add(self, loss: Tensor, losses: Tensor, timesteps: Tensor) -> None:
        """One batch: its loss, and each sample's loss and timestep ``(batch,)``."""
        band = timesteps * BANDS // self.timesteps
        self.sums[:2] += torch.stack([loss.detach(), torch.ones_like(loss)])
        self.sums[2 : 2 + BANDS].index_add_(0, band, losses)
        self.sums[2 + BANDS :].index_add_(0, band, torch.ones_like(losses))
        self.samples += len(losses)

    def advance(self) -> None:
        if self.bar is not None:
            self.bar.update()

    def total(self) -> list[float]:
        """The sums over all processes."""
        sums = self.sums.clone()
        dist.all_reduce(sums)
        return sums.tolist()

    def row(self, step: int, adapter: LLMAdapter, **values: float | None) -> None:
        """Writes the row of the steps since the last one."""
        loss, batches, *bands = self.total()
        seconds = time.perf_counter() - self.start
        row: dict[str, Any] = {"step": step, "loss": loss / batches, **values}
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
    """The file, opened to append, without rows past step `first`: a resumed run writes those again."""
    rows = path.read_text().splitlines(keepends=True) if path.exists() else []
    kept = [row for row in rows if row.endswith("\n") and json.loads(row)["step"] <= first]
    part = path.with_suffix(".part")
    part.write_text("".join(kept))
    part.replace(path)
    return path.open("a")
