"""Find the newest whole checkpoint, from which a run goes on. Needs no torch."""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path

from llmdiff.adapter.config import CONFIG, WEIGHTS
from llmdiff.model_files.manifest import MANIFEST, check_files, read_manifest
from llmdiff.model_files.safetensors_files import check_safetensors
from llmdiff.training.checkpoints.state import EMA_FOLDER, OPTIMIZER, STATE, State, complete, read_state, step_folders

TENSORS = (WEIGHTS, f"{EMA_FOLDER}/{WEIGHTS}", OPTIMIZER)
FILES = (*TENSORS, CONFIG, f"{EMA_FOLDER}/{CONFIG}", f"{EMA_FOLDER}/{MANIFEST}", STATE)
"""Files that a checkpoint's manifest lists."""

logger = logging.getLogger(__name__)


def newest_whole(folder: Path) -> Path | None:
    """Return the newest whole checkpoint, and log a line for each that is passed over; None where none was saved.

    Raises:
        ValueError: checkpoints were saved, and all are damaged.
    """
    left: list[str] = []
    for path in reversed(step_folders(folder)):
        try:
            check_checkpoint(path)
        except (OSError, ValueError) as error:
            left.append(str(error))
            continue
        report(left, f"going on from {path.name}")
        return path
    if damaged := complete(folder):
        names = ", ".join(path.name for path in damaged)
        raise ValueError(
            f"{folder}: expected a checkpoint that is whole, found {names}, all damaged: {'; '.join(left)}: put back a "
            "copy of one, or begin again with --restart"
        )
    report(left, "beginning at step 0")
    return None


def report(left: list[str], then: str) -> None:
    """Log why each checkpoint was passed over, in the form that `infra.tracking.run` looks for."""
    for reason in left:
        logger.warning("training warning: checkpoint left: %s; %s", reason, then)


def newest_state(folder: Path) -> State | None:
    """Return the state of the newest checkpoint whose state is intact; read no other file of it."""
    for path in reversed(complete(folder)):
        with suppress(OSError, ValueError):
            check_files(path, (STATE,))
            return read_state(path)
    return None


def check_checkpoint(path: Path) -> None:
    """Raise ValueError, naming the file, where a checkpoint is damaged or was not saved to its end.

    Earlier versions wrote no checksums: then each file of weights is as long as its header says.
    """
    if not ((path / STATE).exists() or (path / MANIFEST).exists()):
        raise ValueError(f"{path}: cut short while it was saved")
    if (listed := read_manifest(path)) is not None:
        check_files(path, dict.fromkeys((*FILES, *listed)))
    elif (path / EMA_FOLDER / MANIFEST).exists():  # written by this version, as the manifest was
        raise ValueError(f"{path / MANIFEST}: damaged: expected the list of its files, found no such file")
    else:
        for name in TENSORS:
            check_safetensors(path / name)
        logger.warning("%s: no %s, as earlier versions wrote checkpoints: sizes alone were checked", path, MANIFEST)
    read_state(path)
