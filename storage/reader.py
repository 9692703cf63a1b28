"""Batches of encodings and latents for training, read ahead of it. The one part of the store that imports torch."""

from __future__ import annotations

import queue
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from storage.arrays import TOKENS_PER_CHUNK, bands_of, open_array, read_ranges
from storage.buffers import Buffers
from storage.keys import caption_hash, checksum
from storage.order import BlockShuffle, batch_bounds, share
from storage.places import Place
from storage.plain import OuterShard, PlainFiles, is_plain
from storage.samples import Rows, join, latent_shape, load_samples, stored_at, too_few
from storage.store import EncodingStore, check_row

OPEN_FILES = 256
OPEN_ARRAYS = 1024
HINTS = 4
"""In how many parts the disk is told of a group of batches, while the one before it is read."""


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
    caption_hashes: list[str]
    """Of each sample's caption."""
    rows: list[tuple[str, int]]
    """Source and row of each sample."""
    position: int
    """Samples of the epoch that all ranks have seen after this batch: where `EncodingDataset.epoch` can go on."""


class EncodingDataset:
    """The samples of a store's version under one fingerprint, as batches to train on.

    Every sample comes exactly once an epoch, on one rank. All ranks get the same number of batches; the samples left
    after the last full one are shared too (a smaller last batch, or one larger by a sample), or left out with
    `drop_last`. A thread reads ahead: in memory are `read_ahead` batches, and where the arrays are no plain local files
    also about ``blocks_together * block_size / world_size`` samples. Each row's checksum is compared as it is read.
    """

    def __init__(
        self,
        path: str | Place,
        version: int | None,
        fingerprint: str,
        batch_size: int,
        *,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        base_fingerprint: str | None = None,
        block_size: int = 64,
        blocks_together: int = 16,
        lanes: int = 8,
        read_ahead: int = 8,
        drop_last: bool = False,
    ) -> None:
        """Opens a snapshot; reads its index, but no array.

        Args:
            path: the store.
            version: of its index; None for the newest, which `version` then tells.
            fingerprint: the encoder whose encodings to read.
            batch_size: samples of a rank's batch.
            seed: with the epoch's number, decides the order of the samples.
            rank: of this process.
            world_size: number of processes.
            base_fingerprint: a second encoder, whose encodings of the same captions come along.
            block_size: see `BlockShuffle`; it and the next two change the order.
            blocks_together: see `BlockShuffle`.
            lanes: see `BlockShuffle`.
            read_ahead: batches ready before they are asked for.
            drop_last: leave out the samples that don't fill a global batch.

        Raises:
            FileNotFoundError: there is no such store.
            ValueError: no such version; no samples under the fingerprint, or fewer than ranks; no base encoding of a
                caption; latents of several shapes.
        """
        if batch_size < 1 or world_size < 1 or not 0 <= rank < world_size:
            found = f"batch_size {batch_size}, rank {rank}, world_size {world_size}"
            raise ValueError(f"expected batch_size >= 1 and 0 <= rank < world_size, found {found}")
        store = EncodingStore.open(path)
        self.store = EncodingStore(store.path, store.version if version is None else version)
        self.version = self.store.version
        self.fingerprint = fingerprint
        self.batch_size = batch_size
        self.rank = rank
        self.world_size = world_size
        self.read_ahead = read_ahead
        self.drop_last = drop_last
        self.shuffle = BlockShuffle(seed=seed, block_size=block_size, blocks_together=blocks_together, lanes=lanes)
        samples = load_samples(self.store, fingerprint)
        if len(samples) < world_size:
            raise ValueError(too_few(self.store, fingerprint, len(samples), world_size))
        self._hashes = samples["caption_hash"].combine_chunks()
        self._source = samples["source"].combine_chunks()
        self._row = samples["row"].to_numpy()
        self._encodings = stored_at(samples, f"encodings/{fingerprint}", "encoding_shard", "first_token", "token_count")
        self._latents = stored_at(
            samples, f"latents/{latent_shape(self.store, samples)}", "latent_shard", "latent_index"
        )
        self._base = None if base_fingerprint is None else join(self.store, base_fingerprint, samples)
        self._buffers: dict[str, Buffers] = defaultdict(Buffers)
        self._open: Callable[[str, str], OpenArray] = lru_cache(OPEN_ARRAYS)(self._open_array)
        self._open_file: Callable[[str, int, int], OuterShard] = lru_cache(OPEN_FILES)(OuterShard)

    def __len__(self) -> int:
        """Samples of an epoch, over all ranks."""
        return len(self._encodings)

    @property
    def batches_per_epoch(self) -> int:
        """Batches of each rank."""
        return len(self._bounds(0))

    def null(self) -> Tensor:
        """The empty caption's encoding, bfloat16 ``([band,] token, hidden)``."""
        return torch.from_numpy(self.store.encoding(self.fingerprint, caption_hash(""))).view(torch.bfloat16)

    def epoch(self, epoch: int, start: int = 0, position: int = 0) -> Iterator[Batch]:
        """This rank's batches of an epoch.

        Args:
            epoch: its number, from 0.
            start: batches to leave out at the beginning: those that this rank had before it stopped.
            position: samples to leave out at the beginning instead: the last batch's `position`, where the run goes on
                with another number of ranks or another batch size.

        Raises:
            ValueError: a row read is not the one that was committed.
        """
        if not 0 <= position <= len(self) or start < 0 or (start and position):
            raise ValueError(f"expected a batch or a position in 0 to {len(self)}, found {start} and {position}")
        return read_ahead(self._batches(epoch, self._bounds(position)[start:]), self.read_ahead)

    def _bounds(self, position: int) -> list[tuple[int, int]]:
        return batch_bounds(len(self), position, self.batch_size * self.world_size, self.world_size, self.drop_last)

    def _batches(self, epoch: int, bounds: Sequence[tuple[int, int]]) -> Iterator[Batch]:
        """Reads as many batches at once as their blocks are shuffled together; the disk is a group of them ahead."""
        order, lanes = self.shuffle.order(len(self), epoch)
        together = self.shuffle.block_size * self.shuffle.blocks_together
        at_once = max(1, together // (self.batch_size * self.world_size))

        def shares(some: Sequence[tuple[int, int]]) -> list[np.ndarray]:
            return [order[a:b][share(lanes[a:b], self.rank, self.world_size)] for a, b in some]

        groups = (shares(bounds[i : i + at_once]) for i in range(0, len(bounds), at_once))
        positions = iter([stop for _, stop in bounds])
        group: list[np.ndarray] = next(groups, [])
        self._will_need(np.concatenate(group or [order[:0]]))
        while group:
            following = next(groups, [])
            yield from self._read(group, positions, np.sort(np.concatenate(following or [order[:0]])))
            group = following

    def _read(self, shares: Sequence[np.ndarray], positions: Iterator[int], following: np.ndarray) -> Iterator[Batch]:
        """Batches of these samples; in between, the disk is told of the following ones, a part at a time."""
        samples = np.concatenate(shares)
        arrays = [rows for rows in (self._encodings, self._base, self._latents) if rows is not None]
        blocks = {rows.array: self._read_blocks(rows, samples) for rows in arrays}
        bands = bands_of(self._array_of(self._encodings, samples[0]))
        every = -(-len(shares) // HINTS)
        soon = np.array_split(following, -(-len(shares) // every))
        for i, ids in enumerate(shares):
            if i % every == 0:
                self._will_need(soon[i // every])
            padded, mask = self._padded(self._encodings, ids, blocks)
            base_padded, base_mask = (None, None) if self._base is None else self._padded(self._base, ids, blocks)
            yield Batch(
                encodings=_split_bands(padded, bands),
                mask=mask,
                base_encodings=base_padded,
                base_mask=base_mask,
                latents=self._stacked(self._latents, ids, blocks),
                caption_hashes=self._hashes.take(pa.array(ids)).to_pylist(),
                rows=list(zip(self._source.take(pa.array(ids)).to_pylist(), self._row[ids].tolist(), strict=True)),
                position=next(positions),
            )

    def _padded(self, rows: Rows, ids: np.ndarray, blocks: dict[str, Blocks]) -> tuple[Tensor, Tensor]:
        """``(token, width)`` bits of each sample, as bfloat16 ``(batch, token, width)``, and ``(batch, token)``."""
        counts = rows.count[ids]
        shape = (len(ids), int(counts.max()), *self._array_of(rows, ids[0]).shape[1:])
        padded = self._buffers[rows.array].empty(shape, np.uint16)
        lines = []
        for line, count in zip(padded, counts.tolist(), strict=True):
            lines.append(line[:count])
            line[count:] = 0
        self._fill(rows, ids, lines, blocks[rows.array])
        mask = np.arange(padded.shape[1]) < counts[:, None]
        return torch.from_numpy(padded).view(torch.bfloat16), torch.from_numpy(mask)

    def _stacked(self, rows: Rows, ids: np.ndarray, blocks: dict[str, Blocks]) -> Tensor:
        """A row of each sample, one on the other."""
        array = self._array_of(rows, ids[0])
        stacked = self._buffers[rows.array].empty((len(ids), *array.shape[1:]), array.dtype)
        self._fill(rows, ids, [stacked[i : i + 1] for i in range(len(ids))], blocks[rows.array])
        return torch.from_numpy(stacked)

    def _fill(self, rows: Rows, ids: np.ndarray, outs: Sequence[np.ndarray], blocks: Blocks) -> None:
        """Brings samples' rows of an array to where they go in a batch, and compares them with their checksums."""
        columns = (column[ids].tolist() for column in (rows.shard, rows.first, rows.checksum))
        for sample, shard, first, expected, out in zip(ids.tolist(), *columns, outs, strict=True):
            files = self._open(rows.shards[shard], rows.array).files
            if files is None:
                out[:] = blocks[sample]
            else:
                files.read(first, first + len(out), out)
            if checksum(out) != expected:
                where = f"{self.store.path}/shards/{rows.shards[shard]}/{rows.array}"
                check_row(out, expected, f"{where}: row {first}, caption {self._hashes[sample]}")

    def _read_blocks(self, rows: Rows, samples: np.ndarray) -> Blocks:
        """What can't be read from plain files, read through Zarr: the arrays' rows by sample, not compared yet."""
        out: Blocks = {}
        for array, ids, first, stop in self._by_array(rows, samples):
            if array.files is None:
                blocks = read_ranges(array.array, first.tolist(), stop.tolist(), gap=TOKENS_PER_CHUNK)
                out.update(zip(ids.tolist(), blocks, strict=True))
        return out

    def _will_need(self, samples: np.ndarray) -> None:
        """Has the disk begin to read some samples, where they lie in plain files."""
        for rows in (self._encodings, self._base, self._latents):
            for array, _, first, stop in () if rows is None else self._by_array(rows, samples):
                if array.files is not None:
                    with suppress(ValueError):  # which reading them raises
                        array.files.will_need(first, stop)

    def _by_array(
        self, rows: Rows, samples: np.ndarray
    ) -> Iterator[tuple[OpenArray, np.ndarray, np.ndarray, np.ndarray]]:
        """Of some samples: each array that holds some, which those are, and where their rows begin and end."""
        codes = rows.shard[samples]
        for code in np.unique(codes):
            ids = samples[codes == code]
            yield self._open(rows.shards[code], rows.array), ids, rows.first[ids], rows.first[ids] + rows.count[ids]

    def _array_of(self, rows: Rows, sample: int) -> Any:
        return self._open(rows.shards[rows.shard[sample]], rows.array).array

    def _open_array(self, shard: str, name: str) -> OpenArray:
        array = open_array(self.store.path / "shards" / shard, name)
        return OpenArray(array, PlainFiles(array, self._open_file) if is_plain(array) else None)


Blocks = dict[int, np.ndarray]
"""Rows read through Zarr, by sample."""


@dataclass(frozen=True)
class OpenArray:
    """An array of a shard, and its files where its rows lie in them as they are."""

    array: Any
    files: PlainFiles | None


def read_ahead(batches: Iterator[Batch], size: int) -> Iterator[Batch]:
    """Runs an iterator in a thread, `size` items ahead; its exceptions come out here, and closing this one ends it.

    A thread and not a process: the arrays' codec must not be forked after a read, and it releases the interpreter lock.
    """
    ready: queue.Queue[Batch | BaseException | None] = queue.Queue(max(1, size))
    closed = threading.Event()

    def put(item: Batch | BaseException | None) -> bool:
        while not closed.is_set():
            try:
                ready.put(item, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def run() -> None:
        try:
            for batch in batches:
                if not put(batch):
                    return
            put(None)
        except BaseException as error:
            put(error)

    thread = threading.Thread(target=run, name="read-ahead", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        closed.set()
        thread.join()


def _split_bands(padded: Tensor, bands: int) -> Tensor:
    if bands == 1:
        return padded
    return padded.unflatten(-1, (bands, -1)).transpose(1, 2).contiguous()  # (b, t, k, d) -> (b, k, t, d)
