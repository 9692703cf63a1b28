"""Pointers of Git LFS: the few lines that stand in the place of a large file that was not fetched."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from llmdiff.data.remote import DataPath

BEGINNING = b"version https://git-lfs.github.com/spec/"
FOUND = "expected the file itself, found a pointer of Git LFS: `git lfs pull` fetches it"


def is_pointer(data: bytes) -> bool:
    """Return whether these bytes are a pointer, or begin one."""
    return data.startswith(BEGINNING)


def check_fetched(file: DataPath) -> None:
    """Raise ValueError where a file of this machine is a pointer; pass one that can't be read."""
    if isinstance(file, Path):
        with suppress(OSError), file.open("rb") as data:
            if is_pointer(data.read(len(BEGINNING))):
                raise ValueError(f"{file}: {FOUND}")
