"""Batches of encodings and latents for training, read ahead of it. The one part of the store that imports torch."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from storage.hashing import caption_hash, checksum
from storage.io.arrays import TOKENS_PER_CHUNK, bands_of, open_array, read_ranges
from storage.io.paths import StorePath
from storage.io.raw_shards import OuterShard, PlainFiles, is_plain
from storage.reading.buffers import Buffers
from storage.reading.sample_index import (
    Rows,
    crops_of,
    dictionary_column,
    hash_column,
    join,
    latent_shape,
    load_samples,
    stored_at,
    too_few,
)
from storage.reading.shuffle import BlockShuffle, batch_bounds, share
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
    pooled: Tensor | None = None
    """``(batch, hidden)`` bfloat16 under the pooled fingerprint, where one was asked for."""
    crops: Tensor | None = None
    """With it, ``(batch, 4)`` int64: each picture's width, height, left and top, as `storage.Sample.crop` has them."""
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
    `drop_last`. Threads read ahead: in memory are `read_ahead` batches, and where the arrays are no plain local files
    also about ``blocks_together * block_size / world_size`` samples, twice. Each row's checksum is compared as it is
    read. A batch's memory is used for another as soon as nobody holds a tensor of it.
    """

    def __init__(
        self,
        path: str | StorePath,
        version: int | None,
        fingerprint: str,
        batch_size: int,
        *,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        base_fingerprint: str | None = None,
        pooled_fingerprint: str | None = None,
        block_size: int = 64,
        blocks_together: int = 16,
        lanes: int = 8,
        read_ahead: int = 8,
        threads: int = 1,
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
            pooled_fingerprint: a third, whose encodings have one token; with them come the pictures' crops.
            block_size: see `BlockShuffle`; it and the next two change the order.
            blocks_together: see `BlockShuffle`.
            lanes: see `BlockShuffle`.
            read_ahead: batches ready, or being made, before they are asked for.
            threads: that make them; a second one pays where captions are long and a core is free.
            drop_last: leave out the samples that don't fill a global batch.

        Raises:
            FileNotFoundError: there is no such store.
            ValueError: no such version; no samples under the fingerprint, or fewer than ranks; no base or pooled
                encoding of a caption; no crop of a picture; latents of several shapes.
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
        self.read_ahead = max(1, read_ahead)
        self.threads = threads
        self.drop_last = drop_last
        self.shuffle = BlockShuffle(seed=seed, block_size=block_size, blocks_together=blocks_together, lanes=lanes)
        samples = load_samples(self.store, fingerprint, *["crop"] * (pooled_fingerprint is not None))
        if len(samples) < world_size:
            raise ValueError(too_few(self.store, fingerprint, len(samples), world_size))
        self._hashes = hash_column(samples["caption_hash"])
        self._sources, self._source = dictionary_column(samples["source"])
        self._row = samples["row"].to_numpy()
        self._encodings = stored_at(samples, f"encodings/{fingerprint}", "encoding_shard", "first_token", "token_count")
        shape = latent_shape(self.store, samples)
        self._latents = stored_at(samples, f"latents/{shape}", "latent_shard", "latent_index")
        self.latent_side = int(shape.rpartition("x")[2])
        self._base = None if base_fingerprint is None else join(self.store, base_fingerprint, samples)
        self._pooled: Rows | None = None
        if pooled_fingerprint is not None:
            self._pooled = join(self.store, pooled_fingerprint, samples, "pooled")
            self._crops = crops_of(self.store, samples)
        arrays = self._encodings, self._base, self._pooled, self._latents
        self._arrays = [rows for rows in arrays if rows is not None]
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
        return self._ahead(epoch, self._bounds(position)[start:])

    def _ahead(self, epoch: int, bounds: Sequence[tuple[int, int]]) -> Iterator[Batch]:
        """Batches in their order, made by threads, `read_ahead` of them before they are asked for.

        Threads and not processes: the arrays' codec must not be forked after a read, and reading, checksums and copies
        release the interpreter lock.
        """
        pending: deque[Future[Batch]] = deque()
        with ThreadPoolExecutor(self.threads, "read-ahead") as pool:
            batches = self._submit(pool, epoch, bounds)
            try:
                pending.extend(islice(batches, self.read_ahead))
                while pending:
                    first = pending.popleft()
                    pending.extend(islice(batches, 1))
                    yield first.result()
            finally:
                for batch in pending:
                    batch.cancel()

    def _bounds(self, position: int) -> list[tuple[int, int]]:
        return batch_bounds(len(self), position, self.batch_size * self.world_size, self.world_size, self.drop_last)

    def _submit(
        self, pool: ThreadPoolExecutor, epoch: int, bounds: Sequence[tuple[int, int]]
    ) -> Iterator[Future[Batch]]:
        """Has as many batches read at once as their blocks are shuffled together; the disk is a group of them ahead."""
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
            blocks = pool.submit(self._read_blocks, np.concatenate(group))
            every = -(-len(group) // HINTS)
            soon = np.array_split(np.sort(np.concatenate(following or [order[:0]])), -(-len(group) // every))
            for i, ids in enumerate(group):
                hint = soon[i // every] if i % every == 0 else order[:0]
                yield pool.submit(self._batch, ids, next(positions), blocks, hint)
            group = following

    def _batch(self, ids: np.ndarray, position: int, blocks: Future[Blocks], soon: np.ndarray) -> Batch:
        """The batch of some samples; before it is read, the disk is told which ones come soon."""
        self._will_need(soon)
        found = blocks.result()
        bands = bands_of(self._array_of(self._encodings, ids[0]))
        padded, mask = self._padded(self._encodings, ids, found)
        base_padded, base_mask = (None, None) if self._base is None else self._padded(self._base, ids, found)
        return Batch(
            encodings=_split_bands(padded, bands),
            mask=mask,
            base_encodings=base_padded,
            base_mask=base_mask,
            latents=self._stacked(self._latents, ids, found),
            pooled=None if self._pooled is None else self._padded(self._pooled, ids, found)[0][:, 0],
            crops=None if self._pooled is None else torch.from_numpy(self._crops[ids]),
            caption_hashes=self._hashes[ids].astype(str).tolist(),
            rows=list(zip(self._sources[self._source[ids]].tolist(), self._row[ids].tolist(), strict=True)),
            position=position,
        )

    def _padded(self, rows: Rows, ids: np.ndarray, blocks: Blocks) -> tuple[Tensor, Tensor]:
        """``(token, width)`` bits of each sample, as bfloat16 ``(batch, token, width)``, and ``(batch, token)``."""
        counts = rows.count[ids]
        shape = (len(ids), int(counts.max()), *self._array_of(rows, ids[0]).shape[1:])
        padded = self._buffers[rows.array].empty(shape, np.uint16)
        mask = np.arange(shape[1]) < counts[:, None]
        padded[~mask] = 0
        self._fill(rows, ids, padded, padded[0, 0].nbytes, blocks)
        return torch.from_numpy(padded).view(torch.bfloat16), torch.from_numpy(mask)

    def _stacked(self, rows: Rows, ids: np.ndarray, blocks: Blocks) -> Tensor:
        """A row of each sample, one on the other."""
        array = self._array_of(rows, ids[0])
        stacked = self._buffers[rows.array].empty((len(ids), *array.shape[1:]), array.dtype)
        self._fill(rows, ids, stacked, stacked[0].nbytes, blocks)
        return torch.from_numpy(stacked)

    def _fill(self, rows: Rows, ids: np.ndarray, out: np.ndarray, row_bytes: int, blocks: Blocks) -> None:
        """Brings each sample's rows of an array to its place in a batch, and compares them with their checksum."""
        starts = np.arange(len(ids)) * out[0].nbytes
        stops = starts + rows.count[ids] * row_bytes
        of_sample = ids, rows.shard[ids], rows.first[ids], rows.checksum[ids], starts, stops
        columns = [column.tolist() for column in of_sample]
        opened = {shard: self._open(rows.shards[shard], rows.array).files for shard in set(columns[1])}
        memory = out.data.cast("B")
        for sample, shard, first, expected, start, stop in zip(*columns, strict=True):
            into = memory[start:stop]
            if (files := opened[shard]) is None:
                into[:] = blocks[rows.array][sample].view(np.uint8).reshape(-1).data
            else:
                files.read(first, into)
            if checksum(into) != expected:
                where = f"{self.store.path}/shards/{rows.shards[shard]}/{rows.array}"
                check_row(into, expected, f"{where}: row {first}, caption {self._hashes[sample].decode()}")

    def _read_blocks(self, samples: np.ndarray) -> Blocks:
        """What can't be read from plain files, read through Zarr: arrays' rows by sample, not compared yet."""
        out: Blocks = defaultdict(dict)
        for rows in self._arrays:
            for array, ids, first, stop in self._by_array(rows, samples):
                if array.files is None:
                    blocks = read_ranges(array.array, first.tolist(), stop.tolist(), gap=TOKENS_PER_CHUNK)
                    out[rows.array].update(zip(ids.tolist(), blocks, strict=True))
        return out

    def _will_need(self, samples: np.ndarray) -> None:
        """Has the disk begin to read some samples, where they lie in plain files."""
        for rows in self._arrays:
            for array, _, first, stop in self._by_array(rows, samples):
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


Blocks = dict[str, dict[int, np.ndarray]]
"""Rows read through Zarr, by array and sample."""


@dataclass(frozen=True)
class OpenArray:
    """An array of a shard, and its files where its rows lie in them as they are."""

    array: Any
    files: PlainFiles | None


def _split_bands(padded: Tensor, bands: int) -> Tensor:
    if bands == 1:
        return padded
    return padded.unflatten(-1, (bands, -1)).transpose(1, 2).contiguous()  # (b, t, k, d) -> (b, k, t, d)
