"""Resumable state of a run, apart from its result.

``checkpoints/step-00000200/`` holds DeepSpeed's own files (weights and optimiser of the trained parameters alone), the
averaged weights, and last of all ``state.json``: a folder without it was cut short and counts for nothing. The order
of samples, noise and dropout follow from the seed and the step, so there is no other state.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch.distributed as dist
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from llmdiff.training.ema import Average

STATE = "state.json"


def save(folder: Path, step: int, engine: Any, average: Average, sums: list[float], keep: int) -> None:
    """Writes the state after `step` steps, on every process, and removes all but the newest `keep`.

    `sums` are the meter's: of the steps since the last row of the log.
    """
    tag = f"step-{step:08d}"
    if dist.get_rank() == 0:
        shutil.rmtree(folder / tag, ignore_errors=True)  # what an interrupted save left
    dist.barrier()
    try:
        engine.save_checkpoint(str(folder), tag=tag, save_latest=False, exclude_frozen_parameters=True)
        if dist.get_rank() == 0:
            save_file(average.tensors, folder / tag / "average.safetensors")
    except (RuntimeError, SafetensorError) as error:  # their words for a full disk
        free = shutil.disk_usage(folder).free / 1e6
        raise OSError(f"{folder / tag}: not saved, with {free:.0f} MB free on the disk: {error}") from error
    if dist.get_rank() == 0:
        write_last(folder / tag / STATE, {"step": step, "processes": dist.get_world_size(), "sums": sums})
        for old in set(folder.glob("step-*")) - set(complete(folder)[-keep:]):
            shutil.rmtree(old)
    dist.barrier()


def resume(folder: Path, engine: Any, average: Average) -> tuple[int, list[float]]:
    """Loads the newest complete checkpoint, if there is one; returns the steps done, and the meter's sums."""
    found = complete(folder)
    if not found:
        return 0, []
    state = json.loads((found[-1] / STATE).read_text())
    if state["processes"] != dist.get_world_size():
        raise ValueError(
            f"{found[-1]}: saved by {state['processes']} processes, resumed by {dist.get_world_size()}: "
            "start as many as before"
        )
    engine.load_checkpoint(str(folder), tag=found[-1].name)
    average.load(load_file(found[-1] / "average.safetensors"))
    return state["step"], state["sums"]


def complete(folder: Path) -> list[Path]:
    """The complete checkpoints, oldest first."""
    return sorted(path.parent for path in folder.glob(f"step-*/{STATE}"))


def write_last(path: Path, content: dict[str, Any]) -> None:
    """Makes everything written before it durable, then appears at once and whole."""
    for sibling in path.parent.iterdir():
        sync(sibling)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(content) + "\n")
    sync(part)
    part.replace(path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Waits until a file or a folder's entries are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
