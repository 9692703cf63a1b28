"""Mapped files of which few places are read: those are asked of the disk all at once, and nothing around them.

By itself the kernel reads, for each place that is not in memory, what lies around it: as much as a disk's
``read_ahead_kb`` says, up to megabytes. And it waits for one place before the next is asked for.
"""

from __future__ import annotations

import mmap

import numpy as np

TOGETHER = 32 * 1024
"""Gap in bytes up to which what lies between two places is read along, for that costs less than to ask twice."""

PIECE = 128 * 1024
"""Bytes that are asked for at once: of more the kernel leaves out the rest."""


def read_places_alone(array: np.ndarray) -> None:
    """Have the kernel read no more of an array's mapped file than what is asked for; do nothing for one in memory."""
    if (mapped := _mapped(array)) is not None:
        mapped.madvise(mmap.MADV_RANDOM)


def read_ahead(array: np.ndarray, first: np.ndarray, last: np.ndarray | None = None) -> None:
    """Begin to read places of a mapped array that are looked at next; do nothing for one in memory.

    Args:
        array: ``(n,)``.
        first: where the places begin, ascending, int64 ``(m,)``, below ``n``.
        last: where each ends, itself included, ascending; None where each is one row.
    """
    mapped = _mapped(array)
    if mapped is None or not len(first):
        return
    begin = _address(array) - _address(np.frombuffer(mapped, np.uint8))
    start = (begin + first * array.strides[0]) & -mmap.PAGESIZE
    stop = begin + (first if last is None else last) * array.strides[0] + array.itemsize
    breaks = np.flatnonzero(start[1:] > stop[:-1] + TOGETHER)
    starts, stops = start[np.append(0, breaks + 1)].tolist(), stop[np.append(breaks, -1)].tolist()
    for begins, ends in zip(starts, stops, strict=True):
        for at in range(begins, ends, PIECE):
            mapped.madvise(mmap.MADV_WILLNEED, at, min(PIECE, ends - at))


def _address(array: np.ndarray) -> int:
    return int(array.__array_interface__["data"][0])


def _mapped(array: np.ndarray) -> mmap.mmap | None:
    """Return the map that an array lies in."""
    base: object = array
    while isinstance(base, np.ndarray):
        base = base.base
    return base if isinstance(base, mmap.mmap) else None
