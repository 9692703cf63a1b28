"""The pictures of an index: which samples have one in common."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from storage.index.hash_numbers import HASH
from storage.io.cached_arrays import new_array
from storage.reading.hashes import HashParts, same
from storage.reading.sorting import GROUP_ROWS, in_parts

KEY = np.dtype([("hash", HASH), ("sample", "<i8")])


@dataclass(frozen=True)
class Pictures:
    """The pictures of an index, numbered by their first sample."""

    samples: np.ndarray
    """int64 ``(sample,)``: those of one picture after those of another, in their order."""
    starts: np.ndarray
    """int64 ``(picture + 1,)``, where those of each begin, and the number of samples."""

    def __len__(self) -> int:
        return len(self.starts) - 1

    def samples_of(self, pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return where the samples of some pictures begin in `samples`, and how many they are: int64 each."""
        first = self.starts[pictures]
        return first, self.starts[pictures + 1] - first


def group_by_picture(keys: np.ndarray, folder: Path) -> Pictures:
    """Write the arrays of `Pictures` into a folder: ``picture_samples`` and ``picture_starts``.

    Args:
        keys: the hash of each sample's picture, `HASH` ``(sample, 2)``.
        folder: also for temporary files.
    """
    count = len(keys)
    parts = HashParts(folder / "pictures", KEY, count)
    for start, part in in_parts(keys):
        rows = np.empty(len(part), KEY)
        rows["hash"], rows["sample"] = part, np.arange(start, start + len(part))
        parts.add(rows)
    leader, size, rank = (new_array(folder, name, count, "<i8") for name in ("leader", "size", "rank"))
    for rows in parts.arrays():
        begins = np.flatnonzero(~same(rows["hash"]))
        sizes = np.diff(np.append(begins, len(rows)))
        leader[rows["sample"]] = np.repeat(rows["sample"][begins], sizes)
        rank[rows["sample"]] = np.arange(len(rows)) - np.repeat(begins, sizes)
        size[rows["sample"][begins]] = sizes
    (folder / "pictures").rmdir()
    return _ordered(leader, size, rank, folder)


def _ordered(leader: np.ndarray, size: np.ndarray, rank: np.ndarray, folder: Path) -> Pictures:
    """Return the pictures in the order of their first samples.

    Args:
        leader: the first sample of each sample's picture.
        size: of a first sample, the samples of its picture; else 0.
        rank: which of its picture's samples each is.
        folder: to write to; the three arrays are removed from it.
    """
    pictures = sum(int(np.count_nonzero(part)) for _, part in in_parts(size))
    starts = new_array(folder, "picture_starts", pictures + 1, "<i8")
    done = place = 0
    for first, part in in_parts(size):
        leads = np.flatnonzero(part)
        ends = place + np.cumsum(part[leads])
        starts[done + 1 : done + 1 + len(leads)] = ends
        size[first + leads] = ends - part[leads]  # from here on: where each picture's samples begin
        done, place = done + len(leads), int(ends[-1]) if len(ends) else place
    samples = new_array(folder, "picture_samples", len(leader), "<i8")
    for first in range(0, len(leader), GROUP_ROWS):
        some = slice(first, first + GROUP_ROWS)
        samples[size[leader[some]] + rank[some]] = np.arange(first, min(first + GROUP_ROWS, len(leader)))
    for name in ("leader", "size", "rank"):
        (folder / f"{name}.npy").unlink()
    return Pictures(samples, starts)
