"""A store's samples as batches for training, epoch after epoch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from storage.hashing import caption_hash
from storage.io.paths import StorePath
from storage.reading.arrays import ArrayReader
from storage.reading.batch import Batch, BatchFiller, PlannedBatch
from storage.reading.prefetch import Prefetcher
from storage.reading.sample_index import SampleIndex
from storage.reading.shuffle import BlockShuffle, batch_bounds, share
from storage.store import EncodingStore

NO_WORKERS = "EncodingDataset: expected num_workers=0, for its threads read ahead"


@dataclass(frozen=True, kw_only=True)
class DatasetConfig:
    """What an `EncodingDataset` reads, in what order, and how."""

    fingerprint: str
    """The encoder whose encodings to read."""
    batch_size: int
    """Samples of a rank's batch."""
    version: int | None = None
    """Of the store's index; None for the newest, which `EncodingDataset.version` then tells."""
    base_fingerprint: str | None = None
    """A second encoder, whose encodings of the same captions come along."""
    pooled_fingerprint: str | None = None
    """A third, whose encodings have one token; with them come the pictures' crops."""
    rank: int = 0
    """Of this process."""
    world_size: int = 1
    """Number of processes."""
    drop_last: bool = False
    """Leave out the samples that don't fill a global batch."""
    seed: int = 0
    """With the epoch's number, decides the order of the samples."""
    block_size: int = 64
    """See `BlockShuffle`; it and the next two change the order."""
    blocks_together: int = 16
    """See `BlockShuffle`."""
    lanes: int = 8
    """See `BlockShuffle`."""
    read_ahead: int = 8
    """Batches ready, or being made, before they are asked for."""
    threads: int = 1
    """That make them; a second one pays where captions are long and a core is free."""

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.world_size < 1 or not 0 <= self.rank < self.world_size:
            found = f"batch_size {self.batch_size}, rank {self.rank}, world_size {self.world_size}"
            raise ValueError(f"expected batch_size >= 1 and 0 <= rank < world_size, found {found}")
        if self.read_ahead < 1 or self.threads < 1:
            found = f"read_ahead {self.read_ahead}, threads {self.threads}"
            raise ValueError(f"expected read_ahead >= 1 and threads >= 1, found {found}")

    @property
    def global_batch(self) -> int:
        """Samples of a batch over all ranks."""
        return self.batch_size * self.world_size

    @property
    def shuffle(self) -> BlockShuffle:
        """How each epoch is shuffled."""
        return BlockShuffle(
            seed=self.seed, block_size=self.block_size, blocks_together=self.blocks_together, lanes=self.lanes
        )


class EncodingDataset(IterableDataset[Batch]):
    """The samples of a store's version under one fingerprint, as batches to train on.

    Every sample comes exactly once an epoch, on one rank. All ranks get the same number of batches; the samples left
    after the last full one are shared too (a smaller last batch, or one larger by a sample), or left out with
    `drop_last`. Threads read ahead: in memory are `read_ahead` batches, and where the arrays are no raw local files
    also about ``blocks_together * block_size / world_size`` samples, twice. Each row's checksum is compared as it is
    read. A batch's memory is used for another as soon as nobody holds a tensor of it.

    `epoch` gives the batches of any epoch. Iterating the dataset gives those of one epoch after the other: each
    iterator goes on after the last batch that was handed out, and at the end of an epoch the next iterator begins the
    next one. `state_dict` and `load_state_dict` save and restore where that is, as torchdata's `StatefulDataLoader`
    expects (with ``batch_size=None``, for a batch is an item, and ``num_workers=0``, for threads read ahead already).
    """

    def __init__(self, path: str | Path | StorePath, config: DatasetConfig) -> None:
        """Open a snapshot of a store; read its index, but no array.

        Raises:
            FileNotFoundError: there is no such store.
            ValueError: no such version; no samples under the fingerprint, or fewer than ranks; no base or pooled
                encoding of a caption; no crop of a picture; latents of several shapes.
        """
        store = EncodingStore.open(path)
        self.store = EncodingStore(store.path, store.version if config.version is None else config.version)
        self.version = self.store.version
        self.config = config
        self.shuffle = config.shuffle
        self.index = SampleIndex.load(
            self.store, config.fingerprint, config.base_fingerprint, config.pooled_fingerprint, config.world_size
        )
        reader = ArrayReader(self.store.path, self.index)
        self._prefetcher = Prefetcher(
            BatchFiller(self.index, reader),
            reader,
            threads=config.threads,
            read_ahead=config.read_ahead,
            batches_together=max(1, config.block_size * config.blocks_together // config.global_batch),
        )
        self._epoch = 0
        self._position = 0

    @property
    def samples_per_epoch(self) -> int:
        """Samples of an epoch, over all ranks."""
        return len(self.index)

    @property
    def batches_per_epoch(self) -> int:
        """Batches of each rank."""
        return len(self._bounds(0))

    @property
    def latent_side(self) -> int:
        """Width of the latents."""
        return int(self.index.latents.array.rpartition("x")[2])

    def null(self) -> Tensor:
        """Return the empty caption's encoding, bfloat16 ``([band,] token, hidden)``."""
        return torch.from_numpy(self.store.encoding(self.config.fingerprint, caption_hash(""))).view(torch.bfloat16)

    def epoch(self, epoch: int, start: int = 0, position: int = 0) -> Iterator[Batch]:
        """Return this rank's batches of an epoch.

        Args:
            epoch: its number, from 0.
            start: batches to leave out at the beginning: those that this rank had before it stopped.
            position: samples to leave out at the beginning instead: the last batch's `position`, where the run goes on
                with another number of ranks or another batch size.

        Raises:
            ValueError: a row read is not the one that was committed.
        """
        if not 0 <= position <= self.samples_per_epoch or start < 0 or (start and position):
            expected = f"a batch or a position in 0 to {self.samples_per_epoch}"
            raise ValueError(f"expected {expected}, found {start} and {position}")
        return self._prefetcher.batches(self._plan(epoch, start, position))

    def __iter__(self) -> Iterator[Batch]:
        """Yield the rest of the epoch that the dataset is in."""
        if (worker := get_worker_info()) is not None:
            raise ValueError(f"{NO_WORKERS}; found worker {worker.id} of {worker.num_workers}")
        epoch = self._epoch
        for batch in self.epoch(epoch, position=self._position):
            self._position = batch.position
            yield batch
        self._epoch, self._position = epoch + 1, 0

    def __getstate__(self) -> None:
        raise TypeError(f"{NO_WORKERS}; found an attempt to pickle it for another process")

    def state_dict(self) -> dict[str, Any]:
        """Return where iterating is: after the last batch that was handed out; and what decides the order."""
        return {**self._order(), "epoch": self._epoch, "position": self._position}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Have the next iterator go on where a state was taken, also by another number of ranks or batch size.

        Raises:
            ValueError: the state is of another store version, encoder or order of the samples.
        """
        order = self._order()
        if unlike := [name for name in order if name not in state or state[name] != order[name]]:
            name = unlike[0]
            raise ValueError(f"state: expected {name} {order[name]!r}, found {state.get(name)!r}")
        epoch, position = int(state["epoch"]), int(state["position"])
        if epoch < 0 or not 0 <= position <= self.samples_per_epoch:
            expected = f"an epoch and a position in 0 to {self.samples_per_epoch}"
            raise ValueError(f"state: expected {expected}, found {epoch} and {position}")
        self._epoch, self._position = epoch, position

    def _order(self) -> dict[str, Any]:
        """Return what decides which samples come when."""
        return {"version": self.version, "fingerprint": self.config.fingerprint, **vars(self.shuffle)}

    def _bounds(self, position: int) -> list[tuple[int, int]]:
        config = self.config
        return batch_bounds(self.samples_per_epoch, position, config.global_batch, config.world_size, config.drop_last)

    def _plan(self, epoch: int, start: int, position: int) -> Iterator[PlannedBatch]:
        """Yield which samples this rank's batches hold."""
        order, lanes = self.shuffle.order(self.samples_per_epoch, epoch)
        for a, b in self._bounds(position)[start:]:
            yield PlannedBatch(order[a:b][share(lanes[a:b], self.config.rank, self.config.world_size)], b)
