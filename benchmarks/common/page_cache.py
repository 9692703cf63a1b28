"""Files thrown out of the page cache, and how much of them is in it (Linux).

A cold read is cold for this machine's page cache alone: file names stay known, and a virtual disk may have a cache too.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

RESIDENT_AT_MOST = 0.01
PIECE = 512 * 1024
PIECES_AT_ONCE = 4


def evict(*folders: Path) -> float:
    """Throw all files under some folders out of the cache; return the share of their pages that is still there.

    RuntimeError where more than 1 % of them is: what is read next would not be cold.
    """
    pages = resident = 0
    for path in _files(folders):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)  # a dirty page can't be thrown out
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            all_pages, in_cache = _count(descriptor)
        finally:
            os.close(descriptor)
        pages += all_pages
        resident += in_cache
    share = resident / max(1, pages)
    if share > RESIDENT_AT_MOST:
        raise RuntimeError(f"expected a cold page cache, found {share:.0%} of {folders[0]} in it")
    return share


def warm(*folders: Path) -> None:
    """Read all files under some folders once."""
    buffer = bytearray(1 << 22)
    for path in _files(folders):
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def read_directly(folder: Path) -> Iterator[int]:
    """Read all files under a folder past the page cache, several pieces at once: what the disk can give.

    Yields the size of each piece.
    """

    def read(piece: tuple[Path, int]) -> int:
        path, offset = piece
        with mmap.mmap(-1, PIECE) as memory:  # aligned, as O_DIRECT asks
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECT)
            try:
                return os.preadv(descriptor, [memory], offset)
            finally:
                os.close(descriptor)

    pieces = [(path, offset) for path in _files([folder]) for offset in range(0, path.stat().st_size, PIECE)]
    with ThreadPoolExecutor(PIECES_AT_ONCE) as pool:
        yield from pool.map(read, pieces)


def _files(folders: Iterable[Path]) -> Iterator[Path]:
    for folder in folders:
        yield from (path for path in ([folder] if folder.is_file() else folder.rglob("*")) if path.is_file())


def _count(descriptor: int) -> tuple[int, int]:
    """Return the number of a file's pages, and of those in the cache, as mincore tells them."""
    size = os.fstat(descriptor).st_size
    if size == 0:
        return 0, 0
    pages = -(-size // mmap.PAGESIZE)
    with mmap.mmap(descriptor, size, access=mmap.ACCESS_READ) as mapped:
        view = np.frombuffer(mapped, np.uint8)
        in_cache = np.zeros(pages, np.uint8)
        address, out = (ctypes.c_void_p(array.ctypes.data) for array in (view, in_cache))
        failed = ctypes.CDLL(None, use_errno=True).mincore(address, ctypes.c_size_t(size), out)
        del view  # else the map can't be closed
    if failed:
        raise OSError(ctypes.get_errno(), "mincore")
    return pages, int((in_cache & 1).sum())
