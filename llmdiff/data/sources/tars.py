"""Tars that may be made to harm: headers that are believed by `tarfile` are checked, and none is kept."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from typing import Self

import pyarrow as pa

MAX_HEADER_BYTES = 64 * 1024
"""The most bytes of a header that goes on after its block: names, times, attributes."""
MAX_ENDS = 100
"""How often the end of a packed tar is read, before it counts as one that breaks off."""
LONG_HEADERS = (
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
)
"""Types of headers that are read whole, and whatever follows them with them."""


def infos(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """The headers of a tar, once; `tarfile` would keep them all. ReadError where one says that its size is negative."""
    while (info := tar.next()) is not None:
        tar.members.clear()  # type: ignore[attr-defined] # not in its stubs
        if info.size < 0:  # by an extended header, which is read after the first one
            raise tarfile.ReadError(f"{info.name!r} of {info.size} bytes")
        yield info


class CheckedInfo(tarfile.TarInfo):
    """A header whose size is one: a negative one leads Python before 3.11.14, 3.12.12 and 3.13.6 round in circles."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """See `tarfile.TarInfo`; ReadError for a size that no member has."""
        info = super().frombuf(buf, encoding, errors)
        if info.size < 0 or (info.type in LONG_HEADERS and info.size > MAX_HEADER_BYTES):
            raise tarfile.ReadError(f"a header of {info.size} bytes")
        return info


class EndingFile:
    """A file that is read to its end and not on: `tarfile` looks there for as many bytes as a header promises."""

    def __init__(self, file: pa.NativeFile) -> None:
        self._file = file
        self._ends = 0

    def read(self, size: int) -> bytes:
        """Return the next bytes; EOFError where somebody has looked for more again and again."""
        data: bytes = self._file.read(size)
        self._ends += not data
        if self._ends > MAX_ENDS:
            raise EOFError("unexpected end of data")
        return data
