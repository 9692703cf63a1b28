"""A file object over ranges of a remote file: the next range is fetched while the current one is in use."""

from __future__ import annotations

import io
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache

FIRST, LARGEST = 64 * 1024, 8 * 1024**2
"""Bytes of the smallest and the largest range: in sequential reading each is twice as long as the one before."""
AT_ONCE = 8
"""Ranges that this process fetches at once, for all files."""


class ReadAhead(io.RawIOBase):
    """A remote file to read and seek in. At most two of its ranges are in memory: the one in use, and the next.

    Args:
        fetch: returns the bytes of a range; its exceptions are raised by the read that needs those bytes.
        size: bytes of the whole file.
    """

    def __init__(self, fetch: Callable[[int, int], bytes], size: int) -> None:
        self._fetch = fetch
        self._size = size
        self._position = 0
        self._start = 0
        self._window = b""
        self._next: tuple[int, int, Future[bytes]] | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise ValueError(f"expected a position in the file, found {base + offset}")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        if self._position >= self._size or not len(buffer):
            return 0
        if not self._start <= self._position < self._start + len(self._window):
            self._move(len(buffer))
        first = self._position - self._start
        part = self._window[first : first + len(buffer)]
        buffer[: len(part)] = part
        self._position += len(part)
        return len(part)

    def close(self) -> None:
        if self._next is not None:
            self._next[2].cancel()
        self._next, self._window = None, b""
        super().close()

    def _move(self, wanted: int) -> None:
        """Move the window to the position; in sequential reading, fetch more and more ahead."""
        end = self._start + len(self._window)
        ahead, self._next = self._next, None
        if ahead is not None and ahead[0] <= self._position < ahead[1]:
            self._start, self._window = ahead[0], ahead[2].result()
        else:
            if ahead is not None:
                ahead[2].cancel()
            in_sequence = self._position == end
            length = max(FIRST, min(max(wanted, 2 * len(self._window) if in_sequence else 0), LARGEST))
            stop = min(self._position + length, self._size)
            self._start, self._window = self._position, self._fetch(self._position, stop)
            if not in_sequence:
                return
        start = self._start + len(self._window)
        stop = min(start + max(FIRST, min(2 * len(self._window), LARGEST)), self._size)
        if start < stop:
            self._next = start, stop, _threads().submit(self._fetch, start, stop)


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(AT_ONCE, thread_name_prefix="read-ahead")
