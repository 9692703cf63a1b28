"""Hashes as numbers, and records sorted by their hash with little memory."""

from __future__ import annotations

import re
from binascii import unhexlify
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa

from storage.hashing import HASH_BYTES, content_hash
from storage.io.array_parts import ArrayParts

HASH = np.dtype((">u8", (2,)))
"""A hash as two numbers that sort as its bytes do."""
HEXADECIMAL = re.compile(rf"[0-9a-f]{{{2 * HASH_BYTES}}}")


class HashParts:
    """Records with a field ``hash`` of `HASH`, in parts of neighbouring hashes."""

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


def hash_numbers(column: pa.Array) -> np.ndarray:
    """Return what stands for texts, `HASH` ``(n, 2)``: their bytes where they are hashes, else hashes of them."""
    texts = column.cast(pa.string())
    offsets = np.frombuffer(texts.buffers()[1], np.int32, len(texts) + 1, 4 * texts.offset)
    if len(texts) and texts.null_count == 0 and (np.diff(offsets) == 2 * HASH_BYTES).all():
        digits = texts.buffers()[2][offsets[0] : offsets[-1]].to_pybytes()
        with suppress(ValueError):  # where some are no hashes
            if digits == digits.lower():
                return np.frombuffer(unhexlify(digits), HASH.base).reshape(-1, 2)
    each = (text if HEXADECIMAL.fullmatch(text) else content_hash(text.encode()) for text in texts.to_pylist())
    return np.frombuffer(bytes.fromhex("".join(each)), HASH.base).reshape(-1, 2)


def same(hashes: np.ndarray) -> np.ndarray:
    """Return which sorted hashes are those before them, bool ``(n,)``."""
    return np.append(False, (hashes[1:] == hashes[:-1]).all(axis=1)) if len(hashes) else np.empty(0, bool)
