"""Records sorted by their hash with little memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from storage.io.array_parts import ArrayParts


class HashParts:
    """Records with a field ``hash`` of `hash_numbers.HASH`, in parts of neighbouring hashes."""

    def __init__(self, folder: Path, dtype: np.dtype, rows: int) -> None:
        """Make a folder for their files; see `ArrayParts`."""
        self._parts = ArrayParts(folder, dtype, rows)

    def add(self, rows: np.ndarray) -> None:
        """Write records to their parts."""
        first, bits = rows["hash"][:, 0], self._parts.bits
        parts = (first >> np.uint64(64 - bits)).astype(np.int64) if bits else np.zeros(len(rows), np.int64)
        self._parts.add(rows, parts)

    def arrays(self) -> Iterator[np.ndarray]:
        """Yield the records of each part, sorted by hash; equal ones in the order in which they came."""
        for rows in self._parts.arrays():
            yield rows[np.lexsort((rows["hash"][:, 1], rows["hash"][:, 0]))]


def same(hashes: np.ndarray) -> np.ndarray:
    """Return which sorted hashes are those before them, bool ``(n,)``."""
    return np.append(False, (hashes[1:] == hashes[:-1]).all(axis=1)) if len(hashes) else np.empty(0, bool)
