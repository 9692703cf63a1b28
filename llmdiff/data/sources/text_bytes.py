"""Read text files, packed or not, as UTF-8 bytes, whatever encoding their byte order mark names."""

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
"""Encodings by byte order mark, the longer marks first."""
MAX_RATIO = 100
"""Most times its packed size that a text above `MAX_BYTES` may have; real texts have about twenty."""
UNPACKED_AT_ONCE = 4 * 1024**2
"""Bytes that are unpacked at a time."""


def utf8_bytes(file: DataPath) -> bytes:
    """Return a file's text, unpacked, as UTF-8 bytes without a byte order mark."""
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
    """Return the bytes of a packed text; ValueError where they are too many, for its packed size, to be text."""
    packed, found = size_of(file), bytearray()
    most = max(MAX_BYTES, MAX_RATIO * packed)
    while part := data.read(UNPACKED_AT_ONCE):
        found += part
        if len(found) > most:
            raise ValueError(f"{file}: expected at most {most} bytes of text in {packed} bytes, found more")
    return bytes(found)


def as_utf8(data: bytes, file: object) -> bytes:
    """Return text as UTF-8 without its mark; ValueError for UTF-16 without a mark, and for text unlike its mark."""
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
    """Return a text file's content with its line ends as they are; ValueError, with the line, where it is not UTF-8."""
    data = as_utf8(file.read_bytes(), file)
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        found = f"byte 0x{error.object[error.start]:02x}"
        raise ValueError(f"{file}: line {line}: expected UTF-8 text, found {found}") from error
