"""Random numbers of an epoch, each of which can be had without those before it."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from storage.io.grouping import places_by_number

CHUNK = 4096
"""Number of values that are made at once."""
CHUNKS_KEPT = 256
WORDS = 4
"""Number of 64-bit values that Philox makes for each value of its counter."""


class RandomValues:
    """The raw 64-bit numbers that an epoch uses for one purpose: the same in any NumPy, and of any machine."""

    def __init__(self, seed: int, epoch: int, purpose: int = 0, shape: int = 0) -> None:
        """Choose the numbers.

        Args:
            seed: of the run.
            epoch: its number.
            purpose: what they are for.
            shape: which shape of latents they are for.
        """
        self._key = np.array([seed, epoch], np.uint64)
        self._place = shape, purpose
        self._chunk = lru_cache(CHUNKS_KEPT)(self._make_chunk)

    def range(self, start: int, count: int) -> np.ndarray:
        """Return some that follow one another, uint64 ``(count,)``."""
        counter = np.array([start // WORDS, 0, *self._place], np.uint64)
        made: np.ndarray = np.random.Philox(key=self._key, counter=counter).random_raw(start % WORDS + count)
        return made[start % WORDS :]

    def take(self, numbers: np.ndarray) -> np.ndarray:
        """Return the values of some numbers, uint64 ``(n,)``; neighbours cost least."""
        out = np.empty(len(numbers), np.uint64)
        for chunk, places in places_by_number(numbers // CHUNK):
            out[places] = self._chunk(chunk)[numbers[places] - chunk * CHUNK]
        return out

    def _make_chunk(self, chunk: int) -> np.ndarray:
        return self.range(chunk * CHUNK, CHUNK)
