"""Resumable state of a run, apart from its result.

``checkpoints/step-00000200/`` holds the weights as an adapter folder, ``ema/`` with the averaged ones as another, the
optimiser's moments in ``optimizer.safetensors``, ``state.json``, and last of all ``manifest.json`` with the checksums
of all these: a folder without these two was cut short and counts for nothing. All are whole tensors under the adapter's
names, so another number of processes or another ZeRO stage can go on. The order of samples, noise and dropout follow
from the seed and the sample: there is no other state.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from llmdiff.adapter import LLMAdapter
from llmdiff.adapter.config import CONFIG, WEIGHTS
from llmdiff.adapter.files import config_bytes
from llmdiff.model_files.manifest import measured, write_manifest
from llmdiff.training.checkpoints.newest import FILES, newest_whole
from llmdiff.training.checkpoints.state import EMA_FOLDER, OPTIMIZER, STATE, State, complete, folder_name, step_folders
from llmdiff.training.distributed import from_first
from llmdiff.training.optimiser.ema import EMA
from storage.io.files import sync_tree, write_file


def save(folder: Path, state: State, adapter: LLMAdapter, moments: dict[str, Tensor], ema: EMA, keep: int) -> None:
    """Write a checkpoint, on the first process, and remove all but the newest `keep`; OSError on a full disk.

    Of a later step there can only be one that was damaged and left: it is removed too. Links, and what else lies there,
    stay.
    """
    path = folder / folder_name(state.step)
    folder.mkdir(exist_ok=True)
    shutil.rmtree(path, ignore_errors=True)  # what an interrupted save left
    try:
        write_adapter(path, adapter, adapter.state())
        write_adapter(path / EMA_FOLDER, adapter, ema.tensors)
        write_manifest(path / EMA_FOLDER, (WEIGHTS, CONFIG))
        save_file(moments, path / OPTIMIZER)
        write_last(path, state)
    except (OSError, SafetensorError) as error:  # how they report a full disk
        shutil.rmtree(path, ignore_errors=True)
        free = shutil.disk_usage(folder).free / 1e6
        raise OSError(f"{path}: not saved, with {free:.0f} MB free on the disk: {error}") from error
    kept = [saved for saved in complete(folder) if saved.name <= path.name][-keep:]
    for old in set(step_folders(folder)) - set(kept):
        if not old.is_symlink():
            shutil.rmtree(old)


def write_adapter(folder: Path, adapter: LLMAdapter, tensors: dict[str, Tensor]) -> None:
    """Write an adapter folder in float32, as training needs it; `LLMAdapter.load` reads it too."""
    folder.mkdir()
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, folder / WEIGHTS)
    (folder / CONFIG).write_bytes(config_bytes(adapter.config))


def load_adapter(path: Path) -> dict[str, Tensor]:
    """Return the weights in a checkpoint's folder or its ``ema``."""
    return load_file(path / WEIGHTS)


def load_moments(path: Path) -> dict[str, Tensor]:
    """Return the optimiser's moments, by parameter."""
    return load_file(path / OPTIMIZER)


def newest(folder: Path, device: torch.device) -> Path | None:
    """Return the newest whole checkpoint that the first process finds; ValueError where all are damaged."""

    def find() -> str:
        found = newest_whole(folder)
        return "" if found is None else found.name

    name = from_first(find, device)
    return folder / name if name else None


def write_last(path: Path, state: State) -> None:
    """Make everything written before durable, add the state, then let the manifest appear at once and whole."""
    sync_tree(path)
    known = {name: measured(path / name) for name in FILES if name != STATE}  # these take long
    write_file(path / STATE, f"{state.model_dump_json()}\n".encode())
    write_manifest(path, FILES, known)
