"""Resumable state of a run, apart from its result.

``checkpoints/step-00000200/`` holds the weights as an adapter folder, ``ema/`` with the averaged ones as another, the
optimiser's moments in ``optimizer.safetensors``, and last of all ``state.json``: a folder without it was cut short and
counts for nothing. All are whole tensors under the adapter's names, so another number of processes or another ZeRO
stage can go on. The order of samples, noise and dropout follow from the seed and the sample: there is no other state.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch.distributed as dist
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from llmdiff.adapter import LLMAdapter
from llmdiff.adapter.config import CONFIG, WEIGHTS
from llmdiff.training.ema import EMA
from llmdiff.training.state import STATE, State, complete
from storage.io.files import sync_tree, write_file

OPTIMIZER, EMA_FOLDER = "optimizer.safetensors", "ema"


def save(folder: Path, state: State, adapter: LLMAdapter, moments: dict[str, Tensor], ema: EMA, keep: int) -> None:
    """Write a checkpoint, on the first process, and remove all but the newest `keep`; OSError on a full disk."""
    path = folder / f"step-{state.step:08d}"
    folder.mkdir(exist_ok=True)
    shutil.rmtree(path, ignore_errors=True)  # what an interrupted save left
    try:
        write_adapter(path, adapter, adapter.state())
        write_adapter(path / EMA_FOLDER, adapter, ema.tensors)
        save_file(moments, path / OPTIMIZER)
        write_last(path / STATE, state.model_dump_json())
    except (OSError, SafetensorError) as error:  # their words for a full disk
        shutil.rmtree(path, ignore_errors=True)
        free = shutil.disk_usage(folder).free / 1e6
        raise OSError(f"{path}: not saved, with {free:.0f} MB free on the disk: {error}") from error
    for old in set(folder.glob("step-*")) - set(complete(folder)[-keep:]):
        shutil.rmtree(old)


def write_adapter(folder: Path, adapter: LLMAdapter, tensors: dict[str, Tensor]) -> None:
    """Write an adapter folder in float32, as training needs it; `LLMAdapter.load` reads it too."""
    folder.mkdir()
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, folder / WEIGHTS)
    (folder / CONFIG).write_text(adapter.config.model_dump_json(indent=2) + "\n")


def load_adapter(path: Path) -> dict[str, Tensor]:
    """Return the weights in a checkpoint or its ``ema``."""
    return load_file(path / WEIGHTS)


def load_moments(path: Path) -> dict[str, Tensor]:
    """Return the optimiser's moments, by parameter."""
    return load_file(path / OPTIMIZER)


def newest(folder: Path) -> Path | None:
    """Return the newest complete checkpoint, the same one on every process."""
    dist.barrier()
    return max(complete(folder), default=None)


def write_last(path: Path, text: str) -> None:
    """Make everything written before it durable, then let the file appear at once and whole."""
    sync_tree(path.parent)
    write_file(path, f"{text}\n".encode())
