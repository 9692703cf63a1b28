"""Check the headers of GGUF files before a library reads them; no weights are read.

The format is that of https://github.com/ggml-org/ggml. Its readers believe numbers of a header: arrays
take hundreds of times their bytes as objects, and names are looked up block by block, for each of the blocks.
"""

from __future__ import annotations

import mmap
import re
import struct
from functools import lru_cache
from pathlib import Path
from typing import Any

VERSIONS = (2, 3)
NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""Formats of `struct` for the kinds of values that are numbers."""
STRING, ARRAY = 8, 9
MOST_ITEMS = 4_000_000
"""Most items of all arrays together: a vocabulary has some hundred thousand, in three arrays."""
MOST_BLOCKS = 200
MOST_SIDES = 8
BLOCK = re.compile(r"blk\.(\d{1,9})\.")


def check_gguf(file: Path) -> None:
    """Raise ValueError naming a GGUF file whose header is cut short, or that claims what its tensors don't bear out."""
    about = file.stat()
    _check(file, about.st_mtime_ns, about.st_size)


@lru_cache(maxsize=8)
def _check(file: Path, changed: int, size: int) -> None:
    try:
        with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
            settings, names = _Header(data).read()
    except struct.error:
        raise ValueError(f"{file}: expected a GGUF file, found {size} bytes that end in its header") from None
    except ValueError as error:
        raise ValueError(f"{file}: expected a GGUF file: {error}") from None
    _check_blocks(file, settings, names)


def _check_blocks(file: Path, settings: dict[str, Any], names: list[str]) -> None:
    """Raise ValueError where a file names a number of blocks and lacks tensors of some of them."""
    if settings.get("split.count") not in (None, 0, 1):
        found = f"one of {settings['split.count']!r:.80} parts"
        raise ValueError(
            f"{file}: expected the whole of a GGUF file, found {found}: llama-gguf-split --merge joins them"
        )
    name = f"{settings.get('general.architecture')}.block_count"
    blocks = settings.get(name)
    if type(blocks) is not int or not 0 < blocks <= MOST_BLOCKS:
        raise ValueError(f"{file}: {name}: expected 1 to {MOST_BLOCKS} blocks, found {blocks!r:.80}")
    there = {int(match[1]) for match in map(BLOCK.match, names) if match}
    if lacking := sorted(set(range(blocks)) - there):
        raise ValueError(f"{file}: {name}: expected tensors of {blocks} blocks, found none of block {lacking[0]}")


class _Header:
    """A header, read from its start to its end; struct.error where that is not in the file."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._at = 0
        self._items = 0

    def read(self) -> tuple[dict[str, Any], list[str]]:
        """Return the settings, arrays left out, and the tensors' names; ValueError for what no header holds."""
        magic, version, tensors, fields = self._numbers("4sIQQ")
        if magic != b"GGUF" or version not in VERSIONS:
            raise ValueError(f"expected one of version {' or '.join(map(str, VERSIONS))}, found {magic!r} {version}")
        settings: dict[str, Any] = {}
        for _ in range(fields):
            name = self._text()
            settings[name] = self._value(*self._numbers("I"))
        alignment = settings.get("general.alignment", 32)
        if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1):
            raise ValueError(f"general.alignment: expected a power of 2, found {alignment!r:.80}")
        return settings, [self._tensor() for _ in range(tensors)]

    def _value(self, kind: int) -> Any:
        """Return a value; None for an array, which is passed over."""
        if kind == STRING:
            return self._text()
        if kind != ARRAY:
            return self._numbers(self._form(kind))[0]
        inner, count = self._numbers("IQ")
        self._items += count
        if self._items > MOST_ITEMS:
            raise ValueError(f"expected arrays of at most {MOST_ITEMS} values, found {self._items}")
        if inner == STRING:
            for _ in range(count):
                self._skip(*self._numbers("Q"))
        else:
            self._skip(count * struct.calcsize(f"<{self._form(inner)}"))
        return None

    def _tensor(self) -> str:
        """Return a tensor's name."""
        name = self._text()
        (sides,) = self._numbers("I")
        if sides > MOST_SIDES:
            raise ValueError(f"tensor {name!r:.80}: expected at most {MOST_SIDES} dimensions, found {sides}")
        *_, start = self._numbers(f"{sides}QIQ")
        if start > len(self._data):
            raise ValueError(f"tensor {name!r:.80}: expected it in the file, found it to begin at byte {start}")
        return name

    def _form(self, kind: int) -> str:
        if kind not in NUMBERS:
            raise ValueError(f"expected a value of a known kind, found kind {kind}")
        return NUMBERS[kind]

    def _text(self) -> str:
        (length,) = self._numbers("Q")
        start = self._at
        self._skip(length)
        return self._data[start : self._at].decode()

    def _numbers(self, form: str) -> tuple[Any, ...]:
        found = struct.unpack_from(f"<{form}", self._data, self._at)
        self._at += struct.calcsize(f"<{form}")
        return found

    def _skip(self, count: int) -> None:
        self._at += count
        if self._at > len(self._data):
            raise struct.error
