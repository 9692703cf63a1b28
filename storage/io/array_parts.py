"""Records dealt to files on a disk, each of which fits into memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from storage.io.grouping import places_by_number

PART_ROWS = 1 << 20
"""Number of records of a part, about."""


class ArrayParts:
    """Parts of an array of records that is too large for the memory."""

    def __init__(self, folder: Path, dtype: np.dtype, rows: int) -> None:
        """Make a folder for the files.

        Args:
            folder: to be made.
            dtype: of the records.
            rows: how many there will be, about; it decides the number of parts, a power of two.
        """
        self.dtype = dtype
        self.bits = max(0, (rows - 1) // PART_ROWS).bit_length()
        folder.mkdir()
        self._paths = [folder / str(part) for part in range(1 << self.bits)]
        self._files = [path.open("wb") for path in self._paths]

    def add(self, rows: np.ndarray, parts: np.ndarray) -> None:
        """Write records; `parts` says to which part each, int64 ``(n,)``."""
        for part, places in places_by_number(parts):
            self._files[part].write(rows[places].tobytes())

    def arrays(self) -> Iterator[np.ndarray]:
        """Yield the records of each part in the order in which they came; its file is removed."""
        for path, file in zip(self._paths, self._files, strict=True):
            file.close()
            yield np.fromfile(path, self.dtype)
            path.unlink()
