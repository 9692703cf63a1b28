"""Safetensors files by what their headers say; nothing of the weights is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

LONGEST_HEADER = 100_000_000
"""Bytes; the library reads no longer one."""


def check_safetensors(file: Path) -> None:
    """Raise ValueError where a file is not as long as its header says: a copy broken off, or a pointer to the file."""
    tensor_shapes(file)


def tensor_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Return each tensor's shape by its name; raise ValueError as `check_safetensors`."""
    return read_header(file).shapes


class Header(NamedTuple):
    """What a file says of itself."""

    shapes: dict[str, tuple[int, ...]]
    """Of each tensor, by its name."""
    metadata: dict[str, Any]
    """What its writer had to say."""


def read_header(file: Path) -> Header:
    """Return what a file says of itself; raise ValueError as `check_safetensors`."""
    size = file.stat().st_size
    with file.open("rb") as data:
        length = int.from_bytes(data.read(8), "little")
        header = data.read(length) if 8 + length <= size and length <= LONGEST_HEADER else b""
    try:
        tensors = json.loads(header)
        metadata = tensors.pop("__metadata__", None)
        shapes = {name: tuple(about["shape"]) for name, about in tensors.items()}
        expected = 8 + length + max((about["data_offsets"][1] for about in tensors.values()), default=0)
    except (ValueError, LookupError, AttributeError, TypeError, RecursionError):
        raise ValueError(f"{file}: expected a safetensors file, found {size} bytes without its header") from None
    if size != expected:
        how = "is cut short" if size < expected else "goes on after its last tensor"
        raise ValueError(f"{file}: expected {expected} bytes, found {size}: the file {how}")
    return Header(shapes, metadata if isinstance(metadata, dict) else {})
