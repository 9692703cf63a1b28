"""Files of a disk: written whole, on the disk when a function returns, and errors that name them."""

from __future__ import annotations

import fcntl
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO


def write_file(path: Path, data: bytes) -> None:
    """Write a file whole or not at all; it gets its name once it is on the disk."""
    with _part(path, data) as part:
        part.replace(path)
    sync(path.parent)


def create_file(path: Path, data: bytes) -> bool:
    """Write a file whole unless there is one; it gets its name once it is on the disk, which one alone can give it."""
    with _part(path, data) as part:
        try:
            path.hardlink_to(part)
        except FileExistsError:
            if not _is_same(path, part):  # on a network's file system it may be ours, where the answer was lost
                return False
    sync(path.parent)
    return True


def _is_same(path: Path, other: Path) -> bool:
    """Return whether two names are of one file."""
    with suppress(FileNotFoundError):
        return path.samefile(other)
    return False


@contextmanager
def _part(path: Path, data: bytes) -> Iterator[Path]:
    """Give a file's bytes, on the disk, under another name beside its own, which is gone afterwards."""
    part = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.part")
    try:
        with naming(path), part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield part
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Put a path's name into an error that comes without one, such as a full disk's."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def lock_now(descriptor: int) -> bool:
    """Lock an open file for this process if nobody has it; the kernel frees it however the process ends."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of a file that is there meanwhile; the kernel frees it however the process ends."""
    while True:
        with path.open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if not _is_at(file, path):  # whoever had it removed it
                continue
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


def _is_at(file: IO[str], path: Path) -> bool:
    """Return whether a path still names an open file."""
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    return False


def sync(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Wait until a folder with everything under it is on the disk."""
    for parent, _, names in os.walk(folder, topdown=False):
        for name in names:
            sync(Path(parent, name))
        sync(Path(parent))
    sync(folder.parent)


def file_sizes(folder: Path) -> dict[str, int]:
    """Return the bytes of each file under a folder, by path relative to it; empty where there is no such folder."""
    paths = (Path(parent, name) for parent, _, names in os.walk(folder) for name in names)
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in paths}


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
