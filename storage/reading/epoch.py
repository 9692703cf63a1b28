"""What an epoch goes through, and in what batches: each of one shape of latents, and the same whatever the ranks.

An entry is a sample or, where one of a picture's captions is drawn, a picture; one that is to come several times an
epoch is as many entries. The entries of each shape are shuffled for themselves (`BlockShuffle`) and cut into global
batches. Batches of several shapes are mixed so that each shape is spread over the whole epoch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from storage.reading.sample_index import SampleIndex
from storage.reading.shuffle import BlockShuffle, batch_bounds, random_stream

CAPTIONS, FLIPS, TURNS = 1, 2, 3
"""Purposes of an epoch's random numbers, beside the order of the entries."""


class Drawn(NamedTuple):
    """What is drawn for each entry in an epoch."""

    sample: np.ndarray
    """int64 ``(n,)``, into the sample index."""
    mirrored: np.ndarray | None
    """bool ``(n,)``; None where no picture may be mirrored."""


@dataclass(frozen=True, kw_only=True)
class Entries:
    """What an epoch goes through, as columns of ``n`` entries."""

    first: np.ndarray
    """int64 ``(n,)``, into `samples`: the entry's first one."""
    count: np.ndarray
    """int64 ``(n,)``, how many of `samples` one is drawn from."""
    samples: np.ndarray
    """int64, into the sample index."""
    repeat: np.ndarray
    """int64 ``(n,)``, how often the entry's sample or picture came before in the epoch."""
    shapes: list[str]
    """Shapes of latents; see `SampleIndex.shapes`."""
    shape: np.ndarray
    """int64 ``(n,)``, into `shapes`."""
    may_flip: np.ndarray
    """bool, of each sample of the index."""

    @classmethod
    def of(cls, index: SampleIndex, repeats: Mapping[str, int]) -> Entries:
        """Return the index's pictures where it knows them, else its samples; `repeats` by name of the source."""
        samples, first = np.arange(len(index)), np.arange(len(index))
        if index.picture is not None:
            samples = np.argsort(index.picture, kind="stable")
            first = np.flatnonzero(np.diff(index.picture[samples], prepend=-1))
        count = np.diff(first, append=len(index))
        times = np.array([repeats.get(name, 1) for name in index.sources])
        which, repeat = repeated(times[index.source[samples[first]]])
        return cls(
            first=first[which],
            count=count[which],
            samples=samples,
            repeat=repeat,
            shapes=index.shapes,
            shape=index.shape[samples[first[which]]],
            may_flip=index.may_flip,
        )

    def __len__(self) -> int:
        return len(self.first)

    @cached_property
    def by_shape(self) -> list[np.ndarray]:
        """The entries of each shape, int64 each."""
        return [np.flatnonzero(self.shape == shape) for shape in range(len(self.shapes))]

    def each_seen(self, seen: int | Sequence[int]) -> tuple[int, ...]:
        """Return how many of each shape were seen: 0 of all, a number of the only shape, or one of each.

        Raises:
            ValueError: there are not as many shapes, or not as many entries of one.
        """
        most = list(map(len, self.by_shape))
        if seen == 0:
            return (0,) * len(most)
        found = (seen,) if isinstance(seen, int) else tuple(map(int, seen))
        if len(found) != len(most) or not all(0 <= n <= limit for n, limit in zip(found, most, strict=True)):
            shapes = " and ".join(f"0 to {limit} of {name}" for limit, name in zip(most, self.shapes, strict=True))
            raise ValueError(f"position: expected {shapes}, found {seen}")
        return found

    def draw(self, seed: int, epoch: int) -> Drawn:
        """Draw an epoch's captions and orientations: functions of seed, epoch and entry alone."""
        place = self.first
        if self.count.max() > 1:
            drawn = random_stream(seed, epoch, CAPTIONS).random_raw(len(self)) % self.count.astype(np.uint64)
            place = place + drawn.astype(np.int64)
        sample = self.samples[place]
        if not self.may_flip.any():
            return Drawn(sample, None)
        heads = random_stream(seed, epoch, FLIPS).random_raw(len(self)) >> np.uint64(63)
        return Drawn(sample, (heads == 1) & self.may_flip[sample])


def repeated(times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return numbers that come so many times, and how often each came before: one round after the other.

    So the repeats of one lie far apart, in other blocks of the shuffle.
    """
    rounds = [np.flatnonzero(times > before) for before in range(times.max())]
    lengths = [len(each) for each in rounds]
    return np.concatenate(rounds), np.repeat(np.arange(len(rounds)), lengths)


class GlobalBatch(NamedTuple):
    """A batch over all ranks."""

    entries: np.ndarray
    """int64 ``(batch,)``"""
    lanes: np.ndarray
    """int64 ``(batch,)``, by which the ranks share it; see `BlockShuffle`."""
    seen: tuple[int, ...]
    """Entries of each shape that the epoch has gone through after it."""


@dataclass(frozen=True, kw_only=True)
class Batches:
    """How each epoch's entries become global batches."""

    entries: Entries
    shuffle: BlockShuffle
    global_batch: int
    """Entries of a full one."""
    ranks: int
    drop_last: bool
    """Leave out the entries of each shape that don't fill one."""

    def left(self, seen: Sequence[int]) -> int:
        """Return how many batches come after some entries of each shape."""
        return sum(len(bounds) for bounds in self._bounds(seen))

    def of_epoch(self, epoch: int, seen: Sequence[int]) -> Iterator[GlobalBatch]:
        """Yield an epoch's batches after some entries of each shape."""
        orders = [self.shuffle.order(len(each), epoch, shape) for shape, each in enumerate(self.entries.by_shape)]
        after = list(seen)
        for shape, first, last in self._turns(epoch, self._bounds(seen)):
            (order, lanes), after[shape] = orders[shape], last
            entries = self.entries.by_shape[shape][order[first:last]]
            yield GlobalBatch(entries, lanes[first:last], tuple(after))

    def _bounds(self, seen: Sequence[int]) -> list[list[tuple[int, int]]]:
        """Return where each shape's batches begin and end.

        Of several shapes, what is left of one is a batch of its own, however few: where they end does not depend on
        the ranks.
        """
        ranks = self.ranks if len(self.entries.shapes) == 1 else 1
        return [
            batch_bounds(len(each), start, self.global_batch, ranks, self.drop_last)
            for each, start in zip(self.entries.by_shape, seen, strict=True)
        ]

    def _turns(self, epoch: int, bounds: list[list[tuple[int, int]]]) -> list[tuple[int, int, int]]:
        """Return shape, begin and end of each batch in the order in which they come.

        A batch comes at a random moment of the part of the epoch that it is of its shape, which is a function of seed,
        epoch, shape and where it begins: the batches that are left come in the order that they had before.
        """
        if len(bounds) == 1:
            return [(0, *each) for each in bounds[0]]
        timed = []
        for shape, (entries, of_shape) in enumerate(zip(self.entries.by_shape, bounds, strict=True)):
            random = random_stream(self.shuffle.seed, epoch, TURNS, shape).random_raw(len(entries)) / 2.0**64
            timed += [((a + random[a] * (b - a)) / len(entries), shape, a, b) for a, b in of_shape]
        return [(shape, a, b) for _, shape, a, b in sorted(timed)]
