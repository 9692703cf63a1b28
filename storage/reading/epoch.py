"""Batches of an epoch's entries: each of one shape of latents, and the same whatever the ranks.

The entries of each shape are shuffled for themselves (`BlockShuffle`) and cut into global batches. Batches of several
shapes are mixed so that each shape is spread over the whole epoch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from storage.reading.entries import Entries
from storage.reading.random_values import RandomValues
from storage.reading.shuffle import BlockShuffle, EpochOrder, batch_edges, places_of_rank

BATCH_ORDER = 3
"""Purpose of the random numbers that mix the batches of several shapes."""


class RankEntries(NamedTuple):
    """A rank's entries of a batch, as places in the order of their shape; see `EpochOrder`."""

    lanes: np.ndarray
    """int64 ``(n,)``"""
    steps: np.ndarray
    """int64 ``(n,)``"""
    borrowed: bool
    """Whether the rank has no entry of its own, and holds one of another's."""


class GlobalBatch(NamedTuple):
    """A batch over all ranks."""

    shape: int
    """Number of its latents' shape."""
    first: int
    """Place of its first entry in the order of its shape's entries."""
    last: int
    """Place after its last entry there."""
    seen: tuple[int, ...]
    """Number of entries of each shape that the epoch has gone through after it."""
    order: EpochOrder
    """Order of its shape's entries."""

    def of_rank(self, rank: int, ranks: int) -> RankEntries:
        """Return which of its entries are a rank's."""
        lanes, steps = self.order.places(self.first, self.last)
        mine = places_of_rank(lanes, rank, ranks)
        borrowed = not len(mine)
        if borrowed:
            mine = np.array([rank % len(lanes)])
        return RankEntries(lanes[mine], steps[mine], borrowed)


class BatchOrder(NamedTuple):
    """Batches in the order in which they come."""

    shape: np.ndarray
    """int64 ``(batch,)``"""
    first: np.ndarray
    """int64 ``(batch,)``"""
    last: np.ndarray
    """int64 ``(batch,)``"""


@dataclass(frozen=True, kw_only=True)
class Batches:
    """Batches of all epochs: how each epoch's entries become global batches."""

    entries: Entries
    shuffle: BlockShuffle
    global_batch: int
    """Number of entries of a full batch."""
    ranks: int
    drop_last: bool
    """Whether to leave out the entries of each shape that don't fill a batch."""

    def left(self, seen: Sequence[int]) -> int:
        """Return how many batches come after some entries of each shape."""
        return sum(max(0, len(edges) - 1) for edges in self._edges(seen))

    def of_epoch(self, epoch: int, seen: Sequence[int], start: int = 0) -> Iterator[GlobalBatch]:
        """Yield an epoch's batches after some entries of each shape, but for the first `start` of them."""
        orders = [self.shuffle.order(count, epoch, shape) for shape, count in enumerate(self.entries.counts)]
        after = list(seen)
        batches = self._batch_order(epoch, self._edges(seen))
        for i in range(len(batches.shape)):
            shape, first, last = (int(column[i]) for column in batches)
            after[shape] = last
            if i >= start:
                yield GlobalBatch(shape, first, last, tuple(after), orders[shape])

    def _edges(self, seen: Sequence[int]) -> list[np.ndarray]:
        """Return where each shape's batches begin and end.

        Of several shapes, what is left of one is a batch of its own, however few: where they end does not depend on
        the ranks.
        """
        ranks = self.ranks if len(self.entries.counts) == 1 else 1
        return [
            batch_edges(count, start, self.global_batch, ranks, self.drop_last)
            for count, start in zip(self.entries.counts, seen, strict=True)
        ]

    def _batch_order(self, epoch: int, edges: list[np.ndarray]) -> BatchOrder:
        """Return the batches in the order in which they come.

        A batch comes at a random moment of the part of the epoch that it is of its shape, which is a function of seed,
        epoch, shape and where it begins: the batches that are left come in the order that they had before.
        """
        batches = [max(0, len(each) - 1) for each in edges]
        if len(edges) == 1:
            return BatchOrder(np.broadcast_to(np.int64(0), batches[0]), edges[0][:-1], edges[0][1:])
        first, last = (np.concatenate([each[cut] for each in edges]) for cut in (slice(None, -1), slice(1, None)))
        shape = np.repeat(np.arange(len(edges)), batches)
        random = [
            RandomValues(self.shuffle.seed, epoch, BATCH_ORDER, number).take(each[:-1])
            for number, each in enumerate(edges)
        ]
        counts = np.repeat(self.entries.counts, batches)
        moment = (first + np.concatenate(random) / 2.0**64 * (last - first)) / counts
        order = np.lexsort((last, first, shape, moment))
        return BatchOrder(shape[order], first[order], last[order])
