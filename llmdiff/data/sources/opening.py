"""What Arrow reads a file of data from, wherever the file lies."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

from llmdiff.data.remote import DataPath


def arrow_source(file: DataPath) -> str | BinaryIO:
    """Return the path of a file on a disk; of one elsewhere, the open file, which is read ahead."""
    return str(file) if isinstance(file, Path) else file.open("rb")


def size_of(file: DataPath) -> int:
    """Return the bytes of a file, 0 where its place does not say; OSError where it is not there."""
    if isinstance(file, Path):
        return file.stat().st_size
    return 0 if file.facts is None else file.facts.size
