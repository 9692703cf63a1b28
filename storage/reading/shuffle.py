"""The order in which an epoch sees the samples: shuffled in blocks, and the same whatever the number of ranks.

Blocks of neighbouring samples are permuted and dealt to lanes. A lane goes through its blocks a few at a time and
shuffles the samples of those few; the epoch takes one sample of each lane in turn. The ranks share each global batch
by lane, so that a rank reads whole blocks and its neighbour does not read the same ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class BlockShuffle:
    """How an epoch is shuffled; two runs with the same values see the same order."""

    seed: int = 0
    block_size: int = 64
    """Neighbouring samples that are read together."""
    blocks_together: int = 16
    """Blocks whose samples mix: their encodings are in memory at once."""
    lanes: int = 8
    """Blocks are dealt to this many; ranks up to this number read disjoint blocks."""

    def order(self, count: int, epoch: int, shape: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Return the epoch's samples one after the other, and the lane of each: int64 ``(count,)`` twice.

        `shape` numbers the latents' shape that the samples are of, so that no two are shuffled alike.
        """
        random = random_stream(self.seed, epoch, shape=shape)
        blocks = -(-count // self.block_size)
        place = np.empty(blocks, np.int64)
        place[np.argsort(random.random_raw(blocks), kind="stable")] = np.arange(blocks)
        place = place[np.arange(count) // self.block_size]  # of each sample's block
        lane, number = place % self.lanes, place // self.lanes
        together = max(1, self.blocks_together // self.lanes)
        by_lane = np.lexsort((random.random_raw(count), number // together, lane))
        lane = lane[by_lane]
        step = np.arange(count) - np.searchsorted(lane, np.arange(self.lanes))[lane]
        by_step = np.lexsort((lane, step))
        return by_lane[by_step], lane[by_step]


def random_stream(seed: int, epoch: int, purpose: int = 0, shape: int = 0) -> np.random.Philox:
    """Return random bits that an epoch uses for one purpose: its raw ones are the same in any NumPy."""
    words = {"key": [seed, epoch], "counter": [0, 0, shape, purpose]}
    return np.random.Philox(**{name: np.array(values, np.uint64) for name, values in words.items()})


def batch_bounds(count: int, start: int, global_batch: int, ranks: int, drop_last: bool) -> list[tuple[int, int]]:
    """Return where each global batch begins and ends among an epoch's samples from `start` on.

    Of the samples left after the full batches, `drop_last` leaves out all. Otherwise they are a last, smaller batch;
    if they are fewer than the ranks, they join the last full one, if there is one.
    """
    stops = list(range(start + global_batch, count + 1, global_batch))
    last = stops[-1] if stops else start
    if last < count and not drop_last:
        if count - last >= ranks or not stops:
            stops.append(count)
        else:
            stops[-1] = count
    return list(zip([start, *stops[:-1]], stops, strict=True)) if stops else []


def share(lanes: np.ndarray, rank: int, ranks: int) -> np.ndarray:
    """Return which samples of a global batch are a rank's: as many as another's, or one more; maybe none."""
    first, last = len(lanes) * rank // ranks, len(lanes) * (rank + 1) // ranks
    return np.argsort(lanes, kind="stable")[first:last]
