"""Entries that an epoch goes through, found by their numbers: nothing of them is kept one by one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from storage.reading.random_values import RandomValues
from storage.reading.sample_index import SampleIndex

CAPTIONS, FLIPS = 1, 2
"""Numbers of the purposes that an epoch draws random numbers for, beside the order of the entries."""


class EpochEntries(NamedTuple):
    """Some entries of an epoch."""

    number: np.ndarray
    """Number among all entries, int64 ``(n,)``."""
    unit: np.ndarray
    """Sample or picture of the index, int64 ``(n,)``."""
    repeat: np.ndarray
    """Number of times that the unit came before in the epoch, int64 ``(n,)``."""


class Runs(NamedTuple):
    """The entries of one shape, as runs of neighbouring units: one a round of the repeats and a part of the index."""

    start: np.ndarray
    """First entry of each run among those of the shape, and their number, int64 ``(run + 1,)``."""
    first: np.ndarray
    """First unit of each run among those of the shape, int64 ``(run,)``."""
    shift: np.ndarray
    """Number to add to a unit's for the entry's, int64 ``(run,)``."""
    round: np.ndarray
    """Round of each run, int64 ``(run,)``."""


class Entries:
    """The index's pictures where it knows them, else its samples, each as often as it is to come."""

    def __init__(self, index: SampleIndex, repeats: Mapping[str, int]) -> None:
        """Find the runs; `repeats` by name of the source."""
        self.index = index
        times = np.array([repeats.get(name, 1) for name in index.sources], np.int64)
        rounds, starts, stops = _rounds(times, index.unit_ends)
        self._runs = [_runs_of(index, shape, rounds, starts, stops) for shape in range(len(index.shapes))]
        self.counts = [int(runs.start[-1]) for runs in self._runs]
        """Number of entries of each shape."""

    def __len__(self) -> int:
        return sum(self.counts)

    def of_shape(self, shape: int, places: np.ndarray) -> EpochEntries:
        """Return the entries at some places among those of a shape."""
        runs = self._runs[shape]
        run = np.searchsorted(runs.start, places, "right") - 1
        unit = self.index.units_of_shape(shape, runs.first[run] + places - runs.start[run])
        return EpochEntries(unit + runs.shift[run], unit, runs.round[run])

    def each_seen(self, seen: int | Sequence[int]) -> tuple[int, ...]:
        """Return how many of each shape were seen: 0 of all, a number of the only shape, or one of each.

        Raises:
            ValueError: there are not as many shapes, or not as many entries of one.
        """
        most, names = self.counts, self.index.shapes
        if seen == 0:
            return (0,) * len(most)
        found = (seen,) if isinstance(seen, int) else tuple(map(int, seen))
        if len(found) != len(most) or not all(0 <= n <= limit for n, limit in zip(found, most, strict=True)):
            shapes = " and ".join(f"0 to {limit} of {name}" for limit, name in zip(most, names, strict=True))
            raise ValueError(f"position: expected {shapes}, found {seen}")
        return found


class Drawn:
    """Random choices of an epoch: captions and orientations, functions of seed, epoch and entry alone."""

    def __init__(self, index: SampleIndex, seed: int, epoch: int) -> None:
        self.index = index
        self._captions = RandomValues(seed, epoch, CAPTIONS)
        self._flips = RandomValues(seed, epoch, FLIPS)

    def samples(self, found: EpochEntries) -> np.ndarray:
        """Return the sample of each entry, int64 ``(n,)``."""
        if self.index.pictures is None:
            return found.unit
        first, count = self.index.pictures.samples_of(found.unit)
        drawn = self._captions.take(found.number) % count.astype(np.uint64)
        return self.index.pictures.samples[first + drawn.astype(np.int64)]

    def mirrored(self, found: EpochEntries, samples: np.ndarray) -> np.ndarray | None:
        """Return which entries' pictures are mirrored, bool ``(n,)``; None where no picture may be."""
        if not self.index.any_may_flip:
            return None
        heads = self._flips.take(found.number) >> np.uint64(63)
        return (heads == 1) & self.index.may_flip[samples]


def _rounds(times: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return runs of units that come in a round, in the order in which they come: round, start and stop, int64 each.

    One round after the other, so that the repeats of a unit lie far apart, in other blocks of the shuffle. `ends` has
    where each source's units end, `times` how often they come.
    """
    changes = np.flatnonzero(np.diff(times, append=0))  # neighbours that come equally often are one run
    stops, times = ends[changes], times[changes]
    starts = np.concatenate([[0], stops[:-1]])
    rounds = [(round, run) for round in range(times.max()) for run in np.flatnonzero(times > round).tolist()]
    round, run = np.array(rounds, np.int64).T
    return round, starts[run], stops[run]


def _runs_of(index: SampleIndex, shape: int, rounds: np.ndarray, starts: np.ndarray, stops: np.ndarray) -> Runs:
    """Return the part of each run that is of a shape."""
    first, last = index.places_in_shape(shape, starts), index.places_in_shape(shape, stops)
    start = np.concatenate([[0], np.cumsum(last - first)])
    shift = np.cumsum(stops - starts) - stops  # entries before the run, less the units before it
    kept = np.flatnonzero(last > first)
    return Runs(np.append(start[kept], start[-1]), first[kept], shift[kept], rounds[kept])
