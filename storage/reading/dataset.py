"""A store's samples as batches for training, epoch after epoch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from storage.hashing import caption_hash
from storage.io.paths import StorePath
from storage.reading.arrays import ArrayReader
from storage.reading.batch import Batch, BatchFiller, PlannedBatch
from storage.reading.entries import Drawn, Entries
from storage.reading.epoch import Batches, GlobalBatch
from storage.reading.prefetch import Prefetcher
from storage.reading.sample_index import SampleIndex
from storage.reading.shuffle import BlockShuffle
from storage.store import EncodingStore

UNDRAWN: dict[str, Any] = {"caption_choice": "all", "flip_words": None, "repeats": {}}
"""Entries of a state that says nothing of drawing, as earlier versions of the program wrote it."""
PLANNED_TOGETHER = 64
"""Number of batches whose samples are looked up at once."""
NO_WORKERS = "EncodingDataset: expected num_workers=0, for its threads read ahead"


@dataclass(frozen=True, kw_only=True)
class DatasetConfig:
    """Configuration of an `EncodingDataset`: what it reads, in what order, and how."""

    fingerprint: str
    """The encoder whose encodings to read."""
    batch_size: int
    """Number of samples of a rank's batch."""
    version: int | None = None
    """Version of the store's index; None for the newest, which `EncodingDataset.version` then names."""
    base_fingerprint: str | None = None
    """A second encoder, whose encodings of the same captions come along."""
    pooled_fingerprint: str | None = None
    """A third encoder, whose encodings have one token; with them come the pictures' crops."""
    rank: int = 0
    """Rank of this process."""
    world_size: int = 1
    """Number of processes."""
    drop_last: bool = False
    """Leave out the samples that don't fill a global batch."""
    seed: int = 0
    """Seed that decides, with the epoch's number, the order of the samples, and what is drawn."""
    caption_choice: Literal["all", "one"] = "all"
    """Whether each caption of a picture is a sample of its own, or one of them is drawn each epoch."""
    flip: bool = True
    """Mirror each picture or not, as drawn each epoch, where the store has its mirror image."""
    flip_words: tuple[str, ...] = ("left", "right")
    """A picture is not mirrored where its caption has one of these."""
    repeats: Mapping[str, int] = field(default_factory=dict)
    """Number of times that a source's samples come in an epoch, by the source's name; 1 where it is not named."""
    block_size: int = 64
    """Samples of a block of `BlockShuffle`; changing it or the next two changes the order."""
    blocks_together: int = 16
    """Number of blocks that `BlockShuffle` mixes."""
    lanes: int = 8
    """Number of lanes of `BlockShuffle`."""
    read_ahead: int = 8
    """Number of batches ready, or being made, before they are asked for."""
    threads: int = 1
    """Number of threads that make batches; a second one pays where captions are long and a core is free."""

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.world_size < 1 or not 0 <= self.rank < self.world_size:
            found = f"batch_size {self.batch_size}, rank {self.rank}, world_size {self.world_size}"
            raise ValueError(f"expected batch_size >= 1 and 0 <= rank < world_size, found {found}")
        if self.read_ahead < 1 or self.threads < 1:
            found = f"read_ahead {self.read_ahead}, threads {self.threads}"
            raise ValueError(f"expected read_ahead >= 1 and threads >= 1, found {found}")
        if few := sorted(name for name, times in self.repeats.items() if times < 1):
            raise ValueError(f"repeats: expected numbers >= 1, found {few[0]!r}: {self.repeats[few[0]]}")

    @property
    def global_batch(self) -> int:
        """Number of samples of a batch over all ranks."""
        return self.batch_size * self.world_size

    @property
    def drawing(self) -> dict[str, Any]:
        """The settings that decide what is drawn, and how often."""
        words = list(self.flip_words) if self.flip else None
        return {"caption_choice": self.caption_choice, "flip_words": words, "repeats": dict(self.repeats)}

    @property
    def shuffle(self) -> BlockShuffle:
        """The shuffle of each epoch."""
        return BlockShuffle(
            seed=self.seed, block_size=self.block_size, blocks_together=self.blocks_together, lanes=self.lanes
        )


class EncodingDataset(IterableDataset[Batch]):
    """The samples of a store's version under one fingerprint, as batches to train on.

    Every sample comes exactly once an epoch, on one rank, unless `caption_choice` or `repeats` say otherwise. All ranks
    get the same number of batches; the samples left after the last full one are shared too (a smaller last batch, or
    one larger by a sample), or left out with `drop_last`.

    A batch has latents of one shape, on all ranks. Where there are several, each has a smaller batch of its own for the
    samples that are left of it, or these are left out; a rank that gets none of so few holds one that counts on another
    (`Batch.borrowed`). Batches of all shapes are mixed over the epoch, in an order that is the same whatever the ranks.

    Threads read ahead: in memory are `read_ahead` batches, and where the arrays are no raw local files
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
                encoding of a caption; no crop of a picture.
        """
        store = EncodingStore.open(path)
        self.store = EncodingStore(store.path, store.version if config.version is None else config.version)
        self.version = self.store.version
        self.config = config
        self.shuffle = config.shuffle
        self.index = SampleIndex.load(
            self.store,
            config.fingerprint,
            config.base_fingerprint,
            config.pooled_fingerprint,
            config.world_size,
            by_picture=config.caption_choice == "one",
            flip_words=config.flip_words if config.flip else None,
        )
        self.entries = Entries(self.index, config.repeats)
        self.batches = Batches(
            entries=self.entries,
            shuffle=config.shuffle,
            global_batch=config.global_batch,
            ranks=config.world_size,
            drop_last=config.drop_last,
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
        self._seen = self.entries.each_seen(0)

    @property
    def samples_per_epoch(self) -> int:
        """Number of samples of an epoch, over all ranks."""
        return len(self.entries)

    @property
    def batches_per_epoch(self) -> int:
        """Number of batches of each rank."""
        return self.batches_left(0)

    def batches_left(self, seen: int | Sequence[int]) -> int:
        """Return how many batches of an epoch come after those samples; see `epoch`."""
        return self.batches.left(self.entries.each_seen(seen))

    def null(self) -> Tensor:
        """Return the empty caption's encoding, bfloat16 ``([band,] token, hidden)``."""
        return torch.from_numpy(self.store.encoding(self.config.fingerprint, caption_hash(""))).view(torch.bfloat16)

    def epoch(self, epoch: int, start: int = 0, position: int | Sequence[int] = 0) -> Iterator[Batch]:
        """Return this rank's batches of an epoch.

        Args:
            epoch: its number, from 0.
            start: batches to leave out at the beginning: those that this rank had before it stopped.
            position: samples to leave out at the beginning instead: the last batch's `seen`, or its `position` where
                all latents are of one shape. The run may go on with another number of ranks or another batch size.

        Raises:
            ValueError: a row read is not the one that was committed; there is no such position.
        """
        seen = self.entries.each_seen(position)
        if start < 0 or (start and any(seen)):
            raise ValueError(f"expected a batch from 0 or a position, found {start} and {position}")
        return self._prefetcher.batches(self.plan(epoch, start, seen))

    def __iter__(self) -> Iterator[Batch]:
        """Yield the rest of the epoch that the dataset is in."""
        if (worker := get_worker_info()) is not None:
            raise ValueError(f"{NO_WORKERS}; found worker {worker.id} of {worker.num_workers}")
        epoch = self._epoch
        for batch in self.epoch(epoch, position=self._seen):
            self._seen = batch.seen
            yield batch
        self._epoch, self._seen = epoch + 1, self.entries.each_seen(0)

    def __getstate__(self) -> None:
        raise TypeError(f"{NO_WORKERS}; found an attempt to pickle it for another process")

    def state_dict(self) -> dict[str, Any]:
        """Return where iterating is: after the last batch that was handed out; and what decides the order."""
        return {**order_of(self), "epoch": self._epoch, "position": sum(self._seen), "seen": list(self._seen)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Have the next iterator go on where a state was taken, also by another number of ranks or batch size.

        Raises:
            ValueError: the state is of another store version, encoder or order of the samples.
        """
        order, before = order_of(self), {**UNDRAWN, **state}
        for name in order:
            if name not in before or before[name] != order[name]:
                raise ValueError(f"state: expected {name} {order[name]!r}, found {before.get(name)!r}")
        if (epoch := int(state["epoch"])) < 0:
            raise ValueError(f"state: expected an epoch from 0, found {epoch}")
        seen = self.entries.each_seen(state.get("seen", state["position"]))  # earlier versions know one shape alone
        if sum(seen) != state["position"]:
            raise ValueError(f"state: expected position {sum(seen)}, as seen says, found {state['position']}")
        self._epoch, self._seen = epoch, seen

    def plan(self, epoch: int, start: int = 0, seen: tuple[int, ...] | None = None) -> Iterator[PlannedBatch]:
        """Yield which samples this rank's batches of an epoch hold, after `start` batches, or after some samples."""
        seen = self.entries.each_seen(0) if seen is None else seen
        drawn = Drawn(self.index, self.config.seed, epoch)
        batches = self.batches.of_epoch(epoch, seen, start)
        while group := list(islice(batches, PLANNED_TOGETHER)):
            planned: dict[int, PlannedBatch] = {}
            for shape in {batch.shape for batch in group}:
                numbers = [number for number, batch in enumerate(group) if batch.shape == shape]
                planned |= zip(
                    numbers,
                    plan_of_shape(self.entries, self.config, [group[number] for number in numbers], drawn),
                    strict=True,
                )
            yield from (planned[number] for number in range(len(group)))


def plan_of_shape(
    entries: Entries, config: DatasetConfig, batches: list[GlobalBatch], drawn: Drawn
) -> Iterator[PlannedBatch]:
    """Yield which samples a rank's batches of one shape hold; all are looked up at once."""
    per_batch = [batch.of_rank(config.rank, config.world_size) for batch in batches]
    lanes, steps = (np.concatenate(column) for column in list(zip(*per_batch, strict=True))[:2])
    found = entries.of_shape(batches[0].shape, batches[0].order.samples(lanes, steps))
    samples = drawn.samples(found)
    mirrored = drawn.mirrored(found, samples)
    stop = 0
    for batch, mine in zip(batches, per_batch, strict=True):
        some = slice(stop, stop := stop + len(mine.lanes))
        yield PlannedBatch(
            ids=samples[some],
            mirrored=None if mirrored is None else mirrored[some],
            repeats=found.repeat[some].tolist() if config.repeats else None,
            borrowed=mine.borrowed,
            seen=batch.seen,
        )


def order_of(data: EncodingDataset) -> dict[str, Any]:
    """Return all that decides which samples come when, as a state says it."""
    order = {"version": data.version, "fingerprint": data.config.fingerprint, **vars(data.shuffle)}
    drawing = data.config.drawing
    if not data.index.any_may_flip:  # then the words change nothing
        drawing["flip_words"] = None
    return order | drawing
