"""Batches made by threads before they are asked for."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

import numpy as np

from storage.reading.arrays import ArrayReader, Blocks
from storage.reading.batch import Batch, BatchFiller, PlannedBatch

HINTS = 4
"""Number of parts in which the disk is told of a group of batches, while the one before it is read."""


class Prefetcher:
    """Makes batches in their order, some of them before they are asked for.

    Threads make them and not processes: the arrays' codec must not be forked after a read, and reading, checksums and
    copies release the interpreter lock.
    """

    def __init__(
        self, filler: BatchFiller, reader: ArrayReader, *, threads: int, read_ahead: int, batches_together: int
    ) -> None:
        """Keep what makes the batches.

        Args:
            filler: makes one.
            reader: reads what does not lie in raw files for some batches at once, and tells the disk what comes.
            threads: that work at once.
            read_ahead: batches ready, or being made, before they are asked for.
            batches_together: as many as their blocks are shuffled together.
        """
        self.filler = filler
        self.reader = reader
        self.threads = threads
        self.read_ahead = read_ahead
        self.batches_together = batches_together

    def batches(self, planned: Iterator[PlannedBatch]) -> Iterator[Batch]:
        """Yield the batches; the threads end with the iterator."""
        pending: deque[Future[Batch]] = deque()
        with ThreadPoolExecutor(self.threads, "read-ahead") as pool:
            batches = self._submit(pool, planned)
            try:
                pending.extend(islice(batches, self.read_ahead))
                while pending:
                    first = pending.popleft()
                    pending.extend(islice(batches, 1))
                    yield first.result()
            finally:
                for batch in pending:
                    batch.cancel()

    def _submit(self, pool: ThreadPoolExecutor, planned: Iterator[PlannedBatch]) -> Iterator[Future[Batch]]:
        """Submit group after group; the disk is a group ahead."""
        group = list(islice(planned, self.batches_together))
        self.reader.will_need(_samples(group))
        while group:
            following = list(islice(planned, self.batches_together))
            blocks = pool.submit(self.reader.read_blocks, _samples(group))
            every = -(-len(group) // HINTS)
            soon = np.array_split(np.sort(_samples(following)), -(-len(group) // every))
            for i, each in enumerate(group):
                yield pool.submit(self._make, each, blocks, soon[i // every] if i % every == 0 else _samples([]))
            group = following

    def _make(self, planned: PlannedBatch, blocks: Future[Blocks], soon: np.ndarray) -> Batch:
        """Make a batch; before it is read, the disk is told which samples come soon."""
        self.reader.will_need(soon)
        return self.filler.fill(planned, blocks.result())


def _samples(batches: Sequence[PlannedBatch]) -> np.ndarray:
    return np.concatenate([np.empty(0, np.int64), *(batch.ids for batch in batches)])
