"""A batch to train on, and how it is filled."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from storage.io.arrays import bands_of
from storage.reading.arrays import ArrayReader, Blocks
from storage.reading.buffers import Buffers
from storage.reading.sample_index import ArrayRows, SampleIndex


@dataclass(frozen=True, kw_only=True)
class Batch:
    """A rank's share of one global batch; padding is zeros."""

    encodings: Tensor
    """``(batch, token, hidden)`` bfloat16; ``(batch, band, token, hidden)`` where the encoder keeps several bands."""
    mask: Tensor
    """``(batch, token)`` bool, True at the captions' tokens."""
    base_encodings: Tensor | None
    """``(batch, token, hidden)`` bfloat16 under the base fingerprint, where one was asked for."""
    base_mask: Tensor | None
    """``(batch, token)`` bool."""
    latents: Tensor
    """``(batch, channel, height, width)`` float16."""
    pooled: Tensor | None = None
    """``(batch, hidden)`` bfloat16 under the pooled fingerprint, where one was asked for."""
    crops: Tensor | None = None
    """Width, height, left and top of each picture, int64 ``(batch, 4)``, beside `pooled`; see `storage.Sample.crop`."""
    caption_hashes: list[str]
    """Hash of each sample's caption."""
    rows: list[tuple[str, int]]
    """Source and row of each sample."""
    mirrored: Tensor | None = None
    """``(batch,)`` bool, of which samples the latent is the mirror image's; None where none ever is."""
    repeats: list[int] | None = None
    """Number of times that each sample came before in the epoch; None where each comes once."""
    borrowed: bool = False
    """Whether this rank has no sample of a small batch: it holds one that counts on another rank."""
    position: int
    """Number of the epoch's samples that all ranks have seen after this batch."""
    seen: tuple[int, ...] = ()
    """Number of samples seen of each shape of latents: where `EncodingDataset.epoch` can go on."""


@dataclass(frozen=True, kw_only=True)
class PlannedBatch:
    """The plan of a batch: which samples it will hold."""

    ids: np.ndarray
    """int64 ``(batch,)``, into the sample index."""
    mirrored: np.ndarray | None
    """bool ``(batch,)``; see `Batch.mirrored`."""
    repeats: list[int] | None
    """See `Batch.repeats`."""
    borrowed: bool
    """See `Batch.borrowed`."""
    seen: tuple[int, ...]
    """See `Batch.seen`."""

    @property
    def position(self) -> int:
        """See `Batch.position`."""
        return sum(self.seen)


class BatchFiller:
    """Fills batches on memory that comes back; any thread may."""

    def __init__(self, index: SampleIndex, reader: ArrayReader) -> None:
        self.index = index
        self.reader = reader
        self._buffers: dict[str, Buffers] = {rows.array: Buffers() for rows in index.arrays}

    def fill(self, planned: PlannedBatch, blocks: Blocks) -> Batch:
        """Return a batch; `blocks` holds what its samples have in arrays that are read through Zarr.

        Raises:
            ValueError: a row read is not the one that was committed.
        """
        index, ids = self.index, planned.ids
        padded, mask = self._padded(index.encodings, ids, blocks)
        base_padded, base_mask = (None, None) if index.base is None else self._padded(index.base, ids, blocks)
        return Batch(
            encodings=_split_bands(padded, bands_of(self.reader.array_of(index.encodings, ids[0]))),
            mask=mask,
            base_encodings=base_padded,
            base_mask=base_mask,
            latents=_oriented(self._stacked(index.latents, ids, blocks), planned.mirrored),
            mirrored=None if planned.mirrored is None else torch.from_numpy(planned.mirrored),
            repeats=planned.repeats,
            borrowed=planned.borrowed,
            pooled=None if index.pooled is None else self._padded(index.pooled, ids, blocks)[0][:, 0],
            crops=None if index.crops is None else torch.from_numpy(index.crops[ids].astype(np.int64)),
            caption_hashes=index.caption_hashes(ids),
            rows=list(zip(index.sources[index.source[ids]].tolist(), index.row[ids].tolist(), strict=True)),
            position=planned.position,
            seen=planned.seen,
        )

    def _padded(self, rows: ArrayRows, ids: np.ndarray, blocks: Blocks) -> tuple[Tensor, Tensor]:
        """Return ``(token, width)`` bits of each sample, bfloat16 ``(batch, token, width)``, and ``(batch, token)``."""
        counts = rows.count[ids].astype(np.int64)
        shape = (len(ids), int(counts.max()), *self.reader.array_of(rows, ids[0]).shape[1:])
        padded = self._buffers[rows.array].empty(shape, np.uint16)
        mask = np.arange(shape[1]) < counts[:, None]
        padded[~mask] = 0
        self.reader.fill(rows, ids, padded, padded[0, 0].nbytes, blocks)
        return torch.from_numpy(padded).view(torch.bfloat16), torch.from_numpy(mask)

    def _stacked(self, rows: ArrayRows, ids: np.ndarray, blocks: Blocks) -> Tensor:
        """Return a row of each sample, one on the other."""
        array = self.reader.array_of(rows, ids[0])
        stacked = self._buffers[rows.array].empty((len(ids), *array.shape[1:]), array.dtype)
        self.reader.fill(rows, ids, stacked, stacked[0].nbytes, blocks)
        return torch.from_numpy(stacked)


def _oriented(latents: Tensor, mirrored: np.ndarray | None) -> Tensor:
    """Return each picture's latent or its mirror image's: ``(batch, channel, height, width)``, also of pairs."""
    if latents.ndim == 4:
        return latents
    if mirrored is None:
        return latents[:, 0]
    return latents[torch.arange(len(latents)), torch.from_numpy(mirrored).long()]


def _split_bands(padded: Tensor, bands: int) -> Tensor:
    if bands == 1:
        return padded
    return padded.unflatten(-1, (bands, -1)).transpose(1, 2).contiguous()  # (b, t, k, d) -> (b, k, t, d)
