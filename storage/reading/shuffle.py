"""The order in which an epoch sees the samples: shuffled in blocks, and the same whatever the number of ranks.

Blocks of neighbouring samples are permuted and dealt to lanes. A lane goes through its blocks a few at a time and
shuffles the samples of those few; the epoch takes one sample of each lane in turn. The ranks share each global batch
by lane, so that a rank reads whole blocks and its neighbour does not read the same ones.

In memory is the permutation of the blocks; the order inside them is made where the epoch has come to.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from storage.io.grouping import places_by_number
from storage.reading.random_values import RandomValues

ROUNDS_KEPT = 4
"""Number of groups of blocks whose order is kept for each lane."""


@dataclass(frozen=True, kw_only=True)
class BlockShuffle:
    """A shuffle of epochs; two runs with the same values see the same order."""

    seed: int = 0
    block_size: int = 64
    """Number of neighbouring samples that are read together."""
    blocks_together: int = 16
    """Number of blocks whose samples mix: their encodings are in memory at once."""
    lanes: int = 8
    """Number of lanes that blocks are dealt to; ranks up to this number read disjoint blocks."""

    def order(self, count: int, epoch: int, shape: int = 0) -> EpochOrder:
        """Return an epoch's order of so many samples.

        `shape` numbers the latents' shape that the samples are of, so that no two are shuffled alike.
        """
        return EpochOrder(self, count, epoch, shape)


class EpochOrder:
    """The order of an epoch's samples, made in parts; what is kept of it is an integer a block."""

    def __init__(self, shuffle: BlockShuffle, count: int, epoch: int, shape: int) -> None:
        self.count = count
        self._size, self._lanes = shuffle.block_size, shuffle.lanes
        self._together = max(1, shuffle.blocks_together // shuffle.lanes)
        self._random = RandomValues(shuffle.seed, epoch, shape=shape)
        self._blocks = -(-count // self._size)
        self._block_at = np.argsort(self._random.range(0, self._blocks), kind="stable")
        self._missing = self._blocks * self._size - count  # samples that the last block lacks
        short = int(np.flatnonzero(self._block_at == self._blocks - 1)[0]) if count else 0
        self._short_lane, self._short_group = short % self._lanes, short // self._lanes // self._together
        blocks = np.array([len(self._block_at[lane :: self._lanes]) for lane in range(self._lanes)], np.int64)
        self._lengths = blocks * self._size
        self._lengths[self._short_lane] -= self._missing
        self._shortest = int(self._lengths.min())  # in all steps before it each lane has a sample
        self._group = lru_cache(ROUNDS_KEPT * self._lanes)(self._make_group)

    def part(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the samples from one place in the order to another, and the lane of each: int64 ``(n,)`` twice."""
        lanes, steps = self.places(first, last)
        return self.samples(lanes, steps), lanes

    def places(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        """Return which lane's turn it is from one place to another, and the step in it: int64 ``(n,)`` twice."""
        start, stop = self._step_of(first), self._step_of(last - 1) + 1
        steps, lanes = np.divmod(np.arange(start * self._lanes, stop * self._lanes), self._lanes)
        there = steps < self._lengths[lanes]
        cut = slice(first - self._before(start), last - self._before(start))
        return lanes[there][cut], steps[there][cut]

    def samples(self, lanes: np.ndarray, steps: np.ndarray) -> np.ndarray:
        """Return the samples at some steps of lanes, int64 ``(n,)``."""
        out = np.empty(len(lanes), np.int64)
        for lane, places in places_by_number(lanes):
            wanted = steps[places]
            for group, inside in places_by_number(self._groups_of(lane, wanted)):
                out[places[inside]] = self._group(lane, group)[wanted[inside] - self._start(lane, group)]
        return out

    def _before(self, step: int) -> int:
        """Return how many samples come before a step of the lanes."""
        if step <= self._shortest:
            return step * self._lanes
        return int(np.minimum(self._lengths, step).sum())

    def _step_of(self, place: int) -> int:
        """Return the step that a place in the order is of: the last one that begins there or before."""
        if place < self._shortest * self._lanes:
            return place // self._lanes
        low, high = self._shortest, int(self._lengths.max(initial=0))
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self._before(middle) <= place else (low, middle - 1)
        return low

    def _start(self, lane: int, group: int) -> int:
        """Return the first step of a group of blocks in its lane."""
        after_short = lane == self._short_lane and group > self._short_group
        return group * self._together * self._size - self._missing * after_short

    def _groups_of(self, lane: int, steps: np.ndarray) -> np.ndarray:
        """Return which group each step of a lane is of, int64 ``(n,)``."""
        size = self._together * self._size
        if lane != self._short_lane or not self._missing:
            return steps // size
        after_short = steps >= self._start(lane, self._short_group + 1)
        return (steps + self._missing * after_short) // size

    def _make_group(self, lane: int, group: int) -> np.ndarray:
        """Return the samples of some blocks of a lane, shuffled: int64."""
        blocks = np.sort(self._block_at[lane :: self._lanes][group * self._together : (group + 1) * self._together])
        firsts = (blocks * self._size).tolist()
        lasts = [min(first + self._size, self.count) for first in firsts]
        samples = np.concatenate([np.arange(*each) for each in zip(firsts, lasts, strict=True)])
        values = [self._random.range(self._blocks + a, b - a) for a, b in zip(firsts, lasts, strict=True)]
        return samples[np.argsort(np.concatenate(values), kind="stable")]


def batch_edges(count: int, start: int, global_batch: int, ranks: int, drop_last: bool) -> np.ndarray:
    """Return where the global batches begin and end among an epoch's samples from `start` on, int64 ``(batches + 1,)``.

    Of the samples left after the full batches, `drop_last` leaves out all. Otherwise they are a last, smaller batch;
    if they are fewer than the ranks, they join the last full one, if there is one.
    """
    edges = np.arange(start, count + 1, global_batch)
    last = int(edges[-1]) if len(edges) else count
    if last < count and not drop_last:
        if count - last >= ranks or len(edges) == 1:
            return np.append(edges, count)
        edges[-1] = count
    return edges


def places_of_rank(lanes: np.ndarray, rank: int, ranks: int) -> np.ndarray:
    """Return which samples of a global batch are a rank's: as many as another's, or one more; maybe none."""
    first, last = len(lanes) * rank // ranks, len(lanes) * (rank + 1) // ranks
    return np.argsort(lanes, kind="stable")[first:last]
