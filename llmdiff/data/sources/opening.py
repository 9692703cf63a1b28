"""Open a file of data for Arrow, wherever it lies."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

from llmdiff.data.remote import DataPath


def arrow_source(file: DataPath) -> str | BinaryIO:
    """Return the path of a file on a disk, or a remote file opened and read ahead.

    A file whose name is not UTF-8, which Arrow can't take, is opened too.
    """
    return str(file) if isinstance(file, Path) and is_utf8(file) else file.open("rb")


def is_utf8(file: Path) -> bool:
    """Return whether a file's name is text."""
    return not any("\udc80" <= letter <= "\udcff" for letter in str(file))


def size_of(file: DataPath) -> int:
    """Return a file's size in bytes, 0 where its place does not say; OSError where there is no such file."""
    if isinstance(file, Path):
        return file.stat().st_size
    return 0 if file.facts is None else file.facts.size
