"""The state of a run, ``state.json`` in a checkpoint. Needs no torch, so a flow can read it."""

from __future__ import annotations

import json
import re
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from llmdiff.model_files.manifest import MANIFEST
from llmdiff.training.config import TrainConfig

STATE, OPTIMIZER, EMA_FOLDER = "state.json", "optimizer.safetensors", "ema"
NAME = re.compile(r"step-\d{8,}")


class State(BaseModel):
    """The content of ``state.json``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    step: int = 0
    """Steps done."""
    epoch: int = 0
    """Number of the pass over the store."""
    position: int = 0
    """Samples of the epoch that were seen, over all processes."""
    seen: tuple[int, ...] | None = None
    """Samples of the epoch that were seen of each shape of latents; None from versions with only one shape."""
    global_batch: int
    """Samples of a step, over all processes."""
    updates: int = 0
    """Steps that the optimiser took."""
    skipped: int = 0
    """Steps that were left out, because their loss or gradient was not finite."""
    loss_scale: float
    """Loss scale of fp16; 1 in the other precisions."""
    good_steps: int = 0
    """Steps since the loss scale changed."""
    sums: list[float] = []
    """Sums of the metric logger over the steps since its last row."""

    @property
    def where(self) -> int | tuple[int, ...]:
        """Position from which `storage.reading.dataset.EncodingDataset.epoch` goes on."""
        return self.position if self.seen is None else self.seen

    def check_batch(self, config: TrainConfig, processes: int) -> None:
        """Raise ValueError where a resumed run would take other batches than it began with."""
        if (found := config.batch_size * config.accumulate * processes) != self.global_batch:
            raise ValueError(
                f"{config.output}: the run began with {self.global_batch} samples a step, found {found} = batch_size "
                f"{config.batch_size} x accumulate {config.accumulate} x {processes} processes: change batch_size or "
                "accumulate, or use another output"
            )


def read_state(path: Path) -> State:
    """Return the state of a checkpoint; ValueError where it is none, or not of the step that the folder names."""
    try:
        state = State(**json.loads((path / STATE).read_text()))
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{path / STATE}: not a checkpoint of this version: {error}") from error
    if folder_name(state.step) != path.name:
        raise ValueError(f"{path / STATE}: expected the state of {path.name}, found step {state.step}")
    return state


def folder_name(step: int) -> str:
    """Return the name of a step's checkpoint."""
    return f"step-{step:08d}"


def step_folders(folder: Path) -> list[Path]:
    """Return the folders of checkpoints, oldest first, without others such as copies under another name."""
    return sorted(path for path in folder.glob("step-*") if NAME.fullmatch(path.name) and path.is_dir())


def complete(folder: Path) -> list[Path]:
    """Return the checkpoints that were saved to their end, oldest first; what happened to them since is not looked at.

    A folder that lacks either its state or its manifest has lost it later; earlier versions wrote no manifest.
    """
    return [path for path in step_folders(folder) if (path / STATE).exists() or (path / MANIFEST).exists()]
