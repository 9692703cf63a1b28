"""Rows sorted by a hash with little memory: dealt to files by the hash's first bits, each of which fits into memory."""

from __future__ import annotations

import re
from binascii import unhexlify
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa

from storage.hashing import HASH_BYTES, content_hash
from storage.reading.grouping import places_by_number

PART_ROWS = 1 << 20
"""Rows of a file, about."""
HASH = np.dtype((">u8", (2,)))
"""A hash as two numbers that sort as its bytes do."""
HEXADECIMAL = re.compile(rf"[0-9a-f]{{{2 * HASH_BYTES}}}")


class Spill:
    """Rows with a field ``hash`` on the disk, in parts of neighbouring hashes."""

    def __init__(self, folder: Path, dtype: np.dtype, rows: int) -> None:
        """Open the files.

        Args:
            folder: to be made.
            dtype: of the rows; ``hash`` is of `HASH`.
            rows: how many there will be, about.
        """
        self.dtype = dtype
        self._bits = max(0, (rows - 1) // PART_ROWS).bit_length()
        folder.mkdir()
        self._paths = [folder / str(part) for part in range(1 << self._bits)]
        self._files = [path.open("wb") for path in self._paths]

    def add(self, rows: np.ndarray) -> None:
        """Write rows to their parts."""
        if not self._bits:
            self._files[0].write(rows.tobytes())
            return
        parts = (rows["hash"][:, 0] >> np.uint64(64 - self._bits)).astype(np.int64)
        for part, places in places_by_number(parts):
            self._files[part].write(rows[places].tobytes())

    def parts(self) -> Iterator[np.ndarray]:
        """Yield the rows of each part, sorted by hash; equal ones in the order in which they came."""
        for path, file in zip(self._paths, self._files, strict=True):
            file.close()
            rows = np.fromfile(path, self.dtype)
            path.unlink()
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
