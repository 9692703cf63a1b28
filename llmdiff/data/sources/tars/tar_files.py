"""Read tars that may be hostile: check each header before `tarfile` uses it, and keep none."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from typing import Self

import pyarrow as pa

MAX_HEADER_BYTES = 64 * 1024
"""Most bytes of an extended header, which holds long names, times and attributes."""
MAX_ENDS = 100
"""Reads at the end of a packed tar after which it counts as truncated."""
LONG_HEADERS = (
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
)
"""Types of headers whose content `tarfile` reads as a whole."""


def infos(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Yield the headers of a tar without keeping them, as `tarfile` would; ReadError for a negative size."""
    while (info := tar.next()) is not None:
        tar.members.clear()  # type: ignore[attr-defined] # not in its stubs
        if info.size < 0:  # an extended header may say so, after the checked one
            raise tarfile.ReadError(f"{info.name!r} of {info.size} bytes")
        yield info


class CheckedInfo(tarfile.TarInfo):
    """A header with a valid size: a negative one makes Python before 3.11.14, 3.12.12 and 3.13.6 loop for ever."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """See `tarfile.TarInfo`; ReadError for a size that no member has."""
        info = super().frombuf(buf, encoding, errors)
        if info.size < 0 or (info.type in LONG_HEADERS and info.size > MAX_HEADER_BYTES):
            raise tarfile.ReadError(f"a header of {info.size} bytes")
        return info


class EndingFile:
    """A file that ends `tarfile`'s reading at its end; it would go on for as many bytes as a header promises."""

    def __init__(self, file: pa.NativeFile) -> None:
        self._file = file
        self._ends = 0

    def read(self, size: int) -> bytes:
        """Return the next bytes; raise EOFError after more than `MAX_ENDS` reads at the end."""
        data: bytes = self._file.read(size)
        self._ends += not data
        if self._ends > MAX_ENDS:
            raise EOFError("unexpected end of data")
        return data
