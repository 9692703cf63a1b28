"""The obvious ways to read an epoch of encodings: out of one memory-mapped file, or from a file a prompt.

All give the batches that `EncodingDataset` gives: bfloat16 padded with zeros, a mask, latents.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

TensorBatch = tuple[Tensor, Tensor, Tensor]
"""Encodings, mask and latents."""


def read_memmap(
    folder: Path, counts: np.ndarray, width: int, latent: Sequence[int], batches: Sequence[np.ndarray]
) -> Iterator[TensorBatch]:
    """Yield batches out of ``encodings.bin`` and ``latents.bin``, which hold the samples one after the other."""
    stops = np.cumsum(counts)
    starts = stops - counts
    encodings = np.memmap(folder / "encodings.bin", np.uint16, "r").reshape(-1, width)
    latents = np.memmap(folder / "latents.bin", np.float16, "r").reshape(-1, *latent)
    for ids in batches:
        yield collate([(encodings[starts[i] : stops[i]], latents[i]) for i in ids])


def collate(samples: Sequence[tuple[np.ndarray, np.ndarray]]) -> TensorBatch:
    """Pad encodings ``(token, width)`` of bits, and stack latents."""
    counts = np.array([len(bits) for bits, _ in samples])
    padded = np.zeros((len(samples), counts.max(), samples[0][0].shape[1]), np.uint16)
    for line, (bits, _) in zip(padded, samples, strict=True):
        line[: len(bits)] = bits
    mask = np.arange(padded.shape[1]) < counts[:, None]
    latents = np.stack([latent for _, latent in samples])
    return torch.from_numpy(padded).view(torch.bfloat16), torch.from_numpy(mask), torch.from_numpy(latents)


class PtFiles(Dataset[Any]):
    """A .pt a prompt: an unpadded bfloat16 encoding and its latent in one file, which is kind to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, i: int, bits: np.ndarray, latent: np.ndarray) -> None:
        encoding = torch.from_numpy(bits.copy()).view(torch.bfloat16)
        torch.save({"encoding": encoding, "latent": torch.from_numpy(latent.copy())}, self.folder / f"{i:06}.pt")

    def __getitem__(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        found = torch.load(self.folder / f"{i:06}.pt", weights_only=True)
        return found["encoding"].view(torch.uint16).numpy(), found["latent"].numpy()


class NpzFiles(Dataset[Any]):
    """An .npz a prompt: unpadded bits and the latent in one file, not compressed, which is kind to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, i: int, bits: np.ndarray, latent: np.ndarray) -> None:
        np.savez(self.folder / f"{i:06}.npz", encoding=bits, latent=latent)

    def __getitem__(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        with np.load(self.folder / f"{i:06}.npz") as found:
            return found["encoding"], found["latent"]


class KohyaFiles(Dataset[Any]):
    """What `layouts.write_kohya` writes, as it is: padded float32 and a mask."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __getitem__(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        with np.load(self.folder / f"{i:06}_flux_te.npz") as found:
            return found["t5_out"], found["t5_attn_mask"]


def stack(samples: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[Tensor, Tensor]:
    """Stack encodings and masks of one length."""
    encodings, masks = (torch.from_numpy(np.stack(column)) for column in zip(*samples, strict=True))
    return encodings, masks


def file_loader(
    files: Dataset[Any], batches: Sequence[np.ndarray], workers: int, join: Callable[..., Any]
) -> DataLoader[Any]:
    """Return a loader of the batches in their order; its processes, once started, stay."""
    settings: dict[str, Any] = {"multiprocessing_context": "spawn", "persistent_workers": True} if workers else {}
    sampler = [ids.tolist() for ids in batches]
    return DataLoader(files, batch_sampler=sampler, num_workers=workers, collate_fn=join, **settings)
