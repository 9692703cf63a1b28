"""Entries of a folder of data: files, folders, links to them, and what is neither."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable

from llmdiff.data.remote import DataPath, RemotePath
from llmdiff.data.sources.readiness import TEMPORARY


def entries_of(folder: DataPath) -> Iterable[os.DirEntry[str] | RemotePath]:
    """Return what lies in a folder; OSError where it may not be read."""
    return folder.iterdir() if isinstance(folder, RemotePath) else os.scandir(folder)


def is_folder(entry: os.DirEntry[str] | RemotePath) -> bool:
    """Return whether an entry is a folder or links to one; only for links is the disk asked again."""
    if isinstance(entry, RemotePath):
        return entry.is_dir()
    return _mode(entry, stat.S_ISDIR) if entry.is_symlink() else entry.is_dir()


def is_special(entry: os.DirEntry[str] | RemotePath) -> bool:
    """Return whether an entry exists and is no file, as a pipe, whose reading never ends. A broken link is a file."""
    if isinstance(entry, RemotePath):
        return False
    return not entry.is_file(follow_symlinks=False) and _mode(entry, lambda mode: not stat.S_ISREG(mode))


def _mode(entry: os.DirEntry[str], test: Callable[[int], bool]) -> bool:
    """Return whether the mode of an entry, or of what it links to, passes a test; False where there is nothing."""
    try:
        return test(entry.stat().st_mode)
    except OSError:
        return False


def why_no_data(folder: DataPath, above: tuple[DataPath, ...]) -> str | None:
    """Return why a folder is not looked into; None where it is."""
    if folder.name.startswith("."):
        return "a hidden folder"
    if folder.name == TEMPORARY:
        return "the work of a job that has not ended"
    if folder.resolve() in above:
        return f"a link that leads back to {folder.resolve()}"
    return None
