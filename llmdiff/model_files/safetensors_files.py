"""Read and check the headers of safetensors files; no weights are read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

LONGEST_HEADER = 100_000_000
"""Most bytes of a header that the library reads."""
MOST_NUMBERS = 2**63
"""Most numbers that the library counts in a tensor."""
BITS = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0"), 8),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 16),
    **dict.fromkeys(("I32", "U32", "F32"), 32),
    **dict.fromkeys(("I64", "U64", "F64", "C64"), 64),
}
"""Bits of a number, by type; later types are unknown here."""


def check_safetensors(file: Path) -> None:
    """Raise ValueError where a file is not as long as its header says: a copy broken off, or a pointer to the file."""
    tensor_shapes(file)


def tensor_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Return each tensor's shape by its name; raise ValueError as `check_safetensors`."""
    return read_header(file).shapes


class Header(NamedTuple):
    """Content of a file's header."""

    shapes: dict[str, tuple[int, ...]]
    """Shape of each tensor, by its name."""
    metadata: dict[str, Any]
    """The file's metadata."""


class TensorSpan(NamedTuple):
    """The bytes of a file that hold a tensor."""

    start: int
    """First byte, counted from the end of the header."""
    stop: int
    name: str
    shape: tuple[int, ...]
    dtype: Any


def read_header(file: Path) -> Header:
    """Return the header of a file; raise ValueError as `check_safetensors`.

    As in the library, a file is refused whose tensors overlap, leave a gap, or have other sizes than their shapes.
    """
    if file.exists() and not file.is_file():  # reading a pipe would block
        raise ValueError(f"{file}: expected a safetensors file, found a folder or a device")
    size = file.stat().st_size
    with file.open("rb") as data:
        length = int.from_bytes(data.read(8), "little")
        header = data.read(length) if 8 + length <= size and length <= LONGEST_HEADER else b""
    try:
        tensors = json.loads(header)
        metadata = tensors.pop("__metadata__", None)
        spans = sorted(_span(name, about) for name, about in tensors.items())
    except (ValueError, LookupError, AttributeError, TypeError, RecursionError):
        raise ValueError(f"{file}: expected a safetensors file, found {size} bytes without its header") from None
    expected = 8 + length + max((span.stop for span in spans), default=0)
    if size != expected:
        how = "is cut short" if size < expected else "goes on after its last tensor"
        raise ValueError(f"{file}: expected {expected} bytes, found {size}: the file {how}")
    _check_spans(file, spans)
    shapes = {name: tuple(about["shape"]) for name, about in tensors.items()}
    return Header(shapes, metadata if isinstance(metadata, dict) else {})


def _span(name: str, about: Mapping[str, Any]) -> TensorSpan:
    """Return a tensor's span from its entry; ValueError, LookupError or TypeError where the entry is not valid."""
    start, stop = about["data_offsets"]
    shape = tuple(about["shape"])
    if not all(type(number) is int and 0 <= number < MOST_NUMBERS for number in (start, stop, *shape)):
        raise ValueError(name)
    return TensorSpan(start, stop, name, shape, str(about["dtype"]))


def _check_spans(file: Path, spans: list[TensorSpan]) -> None:
    """Raise ValueError where tensors don't lie one after the other, each in as many bytes as its shape takes."""
    end = 0
    for span in spans:
        if span.start != end or span.stop < end:
            found = f"bytes {span.start} to {span.stop}"
            raise ValueError(f"{file}: tensor {span.name!r}: expected it to begin at byte {end}, found {found}")
        end = span.stop
        bits = BITS.get(span.dtype)
        if bits is not None and (expected := _numbers(span.shape) * bits // 8) != span.stop - span.start:
            found = f"{span.stop - span.start} bytes of shape {list(span.shape)!s:.80}"
            raise ValueError(f"{file}: tensor {span.name!r}: expected {expected} bytes, found {found}")


def _numbers(shape: tuple[int, ...]) -> int:
    """Return how many numbers a tensor has, at most `MOST_NUMBERS`."""
    total = 1
    for side in shape:
        total *= side
        if total >= MOST_NUMBERS:
            return MOST_NUMBERS
    return total
