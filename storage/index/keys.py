"""Sorted keys of a file's rows with what is asked of them: arrays in memory, or mapped from a machine's cache.

A key is 128 bits, from one to three hashes. Its upper half is what the arrays are sorted by. Its lower half is kept
mixed with the row's values, so that a bit that flipped in either makes the key another one, never the values wrong.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from storage.index.hash_numbers import hash_numbers
from storage.io.cached_arrays import CachedArrays, new_array
from storage.io.read_ahead import read_ahead, read_places_alone

ODD = np.array(
    [0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93, 0xA0761D6478BD642F],
    np.uint64,
)
"""Odd multipliers, so that a product can be undone; two weighted sums are alike by chance alone."""
SEALED = "sealed"
"""Name of the column of sealed lower halves in a file of keys; the others hold the values."""


@dataclass(frozen=True)
class Digests:
    """Keys, as two halves, uint64 ``(n,)`` each."""

    upper: np.ndarray
    lower: np.ndarray

    @classmethod
    def joined(cls, parts: Sequence[Digests]) -> Digests:
        """Return the keys of several, one after the other."""
        nothing = np.empty(0, np.uint64)
        upper = np.concatenate([nothing, *(part.upper for part in parts)])
        return cls(upper, np.concatenate([nothing, *(part.lower for part in parts)]))

    def __len__(self) -> int:
        return len(self.upper)

    def __getitem__(self, which: np.ndarray) -> Digests:
        return Digests(self.upper[which], self.lower[which])


def digests(columns: Iterable[pa.Array | pa.ChunkedArray]) -> Digests:
    """Return the keys of rows: of one to three columns of hashes or other strings, null where there is none."""
    parts = [hash_numbers(column).astype(np.uint64).T for column in columns]
    upper, lower = (sum((part[i] * ODD[k + i] for k, part in enumerate(parts)), np.uint64(0)) for i in range(2))
    return Digests(np.asarray(upper), np.asarray(lower))


@dataclass(frozen=True)
class Keys:
    """Keys of rows, sorted, and the rows' values."""

    upper: np.ndarray
    """uint64 ``(n,)``, ascending."""
    sealed: np.ndarray
    """uint64 ``(n,)``: the lower halves, mixed with the values."""
    values: dict[str, np.ndarray]
    """Whole numbers ``(n,)`` each; of a column of strings their places in `words`."""
    words: dict[str, list[str]] = field(default_factory=dict)
    filter: np.ndarray | None = None
    """uint8 ``(n,)``, of a mapped file: a bit for each lower half, so that most keys that are not there are told by one
    look each; one in nine of them is not."""

    def __len__(self) -> int:
        return len(self.upper)

    @classmethod
    def of(cls, keys: Digests, values: Mapping[str, np.ndarray], words: dict[str, list[str]], unique: bool) -> Keys:
        """Sort keys and values; with `unique`, one of the rows of a key is kept."""
        order = np.argsort(keys.upper)
        ordered = keys[order]
        if unique and len(order):
            upper, lower = ordered.upper, ordered.lower
            again = (upper[1:] == upper[:-1]) & (lower[1:] == lower[:-1])
            if again.any():
                first = np.concatenate([[True], ~again])
                order, ordered = order[first], ordered[first]
        kept = {name: narrow(column)[order] for name, column in values.items()}
        return cls(ordered.upper, ordered.lower ^ _seal(kept, slice(None)), kept, words)

    def find(self, wanted: Digests) -> tuple[np.ndarray, np.ndarray]:
        """Return which of the wanted keys are there, and in which rows: int64 ``(m,)`` each; `wanted` is sorted."""
        maybe = np.arange(len(wanted))
        if self.filter is not None:
            place, bit = _bit_of(wanted.lower, len(self.filter))
            read_ahead(self.filter, np.sort(place).astype(np.int64))
            maybe = maybe[(self.filter[place] & bit) != 0]
        search = np.searchsorted if self.filter is None else first_places
        first = search(self.upper, wanted.upper[maybe])
        there = first < len(self)
        there[there] = self.upper[first[there]] == wanted.upper[maybe[there]]
        maybe, first = maybe[there], first[there]
        counts = _repeats(self.upper, first)
        which = np.repeat(maybe, counts)
        rows = np.arange(len(which)) + np.repeat(first - (np.cumsum(counts) - counts), counts)
        read_ahead(self.sealed, rows)
        right = (self.sealed[rows] ^ _seal(self.values, rows)) == wanted.lower[which]
        return which[right], rows[right]

    def write(self, folder: Path) -> dict[str, Any]:
        """Write the keys to arrays in a folder, as `storage.io.cached_arrays.cached` has them; return their facts."""
        columns = {SEALED: self.sealed, **self.values}
        rows = new_array(folder, "rows", len(self), [(name, column.dtype) for name, column in columns.items()])
        for name, column in columns.items():
            rows[name] = column
        new_array(folder, "upper", len(self), np.uint64)[:] = self.upper
        new_array(folder, "filter", len(self), np.uint8)[:] = _filter(self.sealed ^ _seal(self.values, slice(None)))
        return {"words": self.words}

    @classmethod
    def mapped(cls, found: CachedArrays) -> Keys:
        """Return keys that `write` wrote; a row's values lie side by side, so that finding it costs one page."""
        for array in found.arrays.values():
            read_places_alone(array)
        rows = found.arrays["rows"]
        values = {name: rows[name] for name in rows.dtype.names or () if name != SEALED}
        return cls(found.arrays["upper"], rows[SEALED], values, found.facts["words"], found.arrays["filter"])


def first_places(ordered: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return `np.searchsorted`'s result, int64 ``(m,)``, for few hashes from few pages of a mapped array.

    Hashes are spread evenly, so that a key's place is known but for four times the square root of their number. What
    is not in that range is searched for in all.

    Args:
        ordered: uint64 ``(n,)``, ascending.
        wanted: uint64 ``(m,)``, ascending.
    """
    count, near = len(ordered), 2 * math.isqrt(len(ordered)) + 1
    if 4 * near * len(wanted) >= count:
        read_ahead(ordered, np.array([0][:count]), np.array([count - 1][:count]))
        return np.searchsorted(ordered, wanted)
    around = (wanted / 2.0**64 * count).astype(np.int64)
    low, high = np.maximum(around - near, 0), np.minimum(around + near, count - 1)
    read_ahead(ordered, low, high)
    ranges = zip(low.tolist(), high.tolist(), wanted, strict=True)
    found = np.array([i + ordered[i:j].searchsorted(key) for i, j, key in ranges], np.int64)
    outside = (found == low) & (low > 0) | (ordered[found] < wanted)
    found[outside] = np.searchsorted(ordered, wanted[outside])
    return found


def _repeats(ordered: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Return how many times numbers are there, int64 ``(m,)``, by their first places: once, as a rule."""
    counts = np.ones(len(first), np.int64)
    again = np.flatnonzero(first + 1 < len(ordered))
    again = again[ordered[first[again] + 1] == ordered[first[again]]]
    counts[again] = np.searchsorted(ordered, ordered[first[again]], side="right") - first[again]
    return counts


def _bit_of(lower: np.ndarray, places: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the byte and the bit of a filter of so many bytes that stand for lower halves of keys."""
    number = lower % np.uint64(8 * places or 1)
    return number >> np.uint64(3), np.uint8(1) << (number & np.uint64(7)).astype(np.uint8)


def _filter(lower: np.ndarray) -> np.ndarray:
    """Return the filter of keys by their lower halves, uint8 ``(n,)``."""
    flags = np.zeros(8 * len(lower), bool)
    flags[lower % np.uint64(8 * len(lower) or 1)] = True
    return np.packbits(flags, bitorder="little")


def _seal(values: Mapping[str, np.ndarray], rows: Any) -> np.ndarray:
    """Return the numbers that rows' values mix into their keys, uint64."""
    mixed = np.uint64(0)
    for number, name in enumerate(sorted(values)):
        mixed = mixed + (values[name][rows].astype(np.uint64) + np.uint64(1)) * ODD[number]
    return np.asarray(mixed)


def narrow(values: np.ndarray) -> np.ndarray:
    """Return whole numbers, none below 0, in as few bytes as hold the largest."""
    return values.astype(np.min_scalar_type(int(values.max(initial=0))))
