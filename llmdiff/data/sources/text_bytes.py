"""The bytes of text files as UTF-8, unpacked, whatever they say that they are in."""

from __future__ import annotations

import codecs

import pyarrow as pa

from llmdiff.data.remote import DataPath
from llmdiff.data.sources.kinds import PACKED
from llmdiff.data.sources.limits import MAX_BYTES
from llmdiff.data.sources.opening import arrow_source, size_of

MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""What a file begins with that is not UTF-8 and says so; the longer ones first."""
MAX_RATIO = 100
"""How many times its packed size a text may have, where it has more than `MAX_BYTES`; real ones have some twenty."""
UNPACKED_AT_ONCE = 4 * 1024**2
"""Bytes."""


def utf8_bytes(file: DataPath) -> bytes:
    """A file's text as UTF-8, unpacked, whatever its mark says that it is in."""
    try:
        if (packed := file.suffix.lower()) in PACKED:
            how = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}[packed]
            with pa.input_stream(arrow_source(file), compression=how) as data:
                return as_utf8(_unpacked(data, file), file)
        return as_utf8(file.read_bytes(), file)
    except ConnectionError:
        raise
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"{file}: {getattr(error, 'strerror', None) or error}") from error


def _unpacked(data: pa.NativeFile, file: DataPath) -> bytes:
    """What a packed text holds; ValueError where that is so much more than it is itself that it can be no text."""
    packed, found = size_of(file), bytearray()
    most = max(MAX_BYTES, MAX_RATIO * packed)
    while part := data.read(UNPACKED_AT_ONCE):
        found += part
        if len(found) > most:
            raise ValueError(f"{file}: expected at most {most} bytes of text in {packed} bytes, found more")
    return bytes(found)


def as_utf8(data: bytes, file: object) -> bytes:
    """Text as UTF-8 without its mark; ValueError where it is UTF-16 without one, or not what its mark says."""
    for mark, encoding in MARKS.items():
        if data.startswith(mark):
            try:
                return data.decode(encoding).encode()
            except UnicodeError as error:
                raise ValueError(f"{file}: expected {encoding.upper()}, as its mark says, found {error}") from error
    if data[1:2] == b"\0" or data[:1] == b"\0":
        raise ValueError(f"{file}: expected UTF-8 text, found NUL bytes: UTF-16 without its mark? Save it as UTF-8")
    return data.removeprefix(codecs.BOM_UTF8)


def read_text(file: DataPath) -> str:
    """A text file's content, its line ends as they are; ValueError naming the line where it is not UTF-8."""
    data = as_utf8(file.read_bytes(), file)
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        found = f"byte 0x{error.object[error.start]:02x}"
        raise ValueError(f"{file}: line {line}: expected UTF-8 text, found {found}") from error
