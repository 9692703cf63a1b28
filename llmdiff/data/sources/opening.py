"""What Arrow reads a file of data from, wherever the file lies."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

from llmdiff.data.remote import DataPath


def arrow_source(file: DataPath) -> str | BinaryIO:
    """Return the path of a file on a disk; of one elsewhere, the open file, which is read ahead.

    The open file, too, where Arrow cannot take its name, for bytes of it are no UTF-8.
    """
    return str(file) if isinstance(file, Path) and is_utf8(file) else file.open("rb")


def is_utf8(file: Path) -> bool:
    """Return whether a file's name is text."""
    return not any("\udc80" <= letter <= "\udcff" for letter in str(file))


def size_of(file: DataPath) -> int:
    """Return the bytes of a file, 0 where its place does not say; OSError where it is not there."""
    if isinstance(file, Path):
        return file.stat().st_size
    return 0 if file.facts is None else file.facts.size
