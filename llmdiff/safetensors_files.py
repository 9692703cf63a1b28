"""Safetensors files by what their headers say, and the indexes that name several; nothing of the weights is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

SUFFIX, INDEX = ".safetensors", "*.safetensors.index*.json"
LONGEST_HEADER = 100_000_000
"""Bytes; the library reads no longer one."""


def check_safetensors(file: Path) -> None:
    """Raise ValueError where a file is not as long as its header says: a copy broken off, or a pointer to the file."""
    read_header(file)


def tensor_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Return each tensor's shape by its name; raise ValueError as `check_safetensors`."""
    return {name: tuple(about.get("shape", ())) for name, about in read_header(file).items()}


def read_header(file: Path) -> dict[str, Any]:
    """Return what a file says of each tensor; raise ValueError as `check_safetensors`."""
    size = file.stat().st_size
    with file.open("rb") as data:
        length = int.from_bytes(data.read(8), "little")
        header = data.read(length) if 8 + length <= size and length <= LONGEST_HEADER else b""
    try:
        tensors: dict[str, Any] = {name: about for name, about in json.loads(header).items() if name != "__metadata__"}
        end = max((about["data_offsets"][1] for about in tensors.values()), default=0)
        expected = 8 + length + end
    except (ValueError, LookupError, AttributeError, TypeError, RecursionError):
        raise ValueError(f"{file}: expected a safetensors file, found {size} bytes without its header") from None
    if size != expected:
        how = "is cut short" if size < expected else "goes on after its last tensor"
        raise ValueError(f"{file}: expected {expected} bytes, found {size}: the file {how}")
    return tensors


def check_index(file: Path) -> None:
    """Raise ValueError where an index names anything but safetensors files that lie beside it.

    Beside a file of all weights an index is a leftover, whose files may be gone.
    """
    try:
        names = set(json.loads(file.read_bytes())["weight_map"].values())
    except (ValueError, LookupError, AttributeError, TypeError, RecursionError) as error:
        raise ValueError(f"{file}: expected the files of weights by tensor, found {error!r:.80}") from None
    start, _, end = file.name.partition(f"{SUFFIX}.index")
    leftover = (file.parent / f"{start}{end.removesuffix('.json')}{SUFFIX}").is_file()
    for name in sorted(names, key=str):
        check_name(file, name, SUFFIX)
        if not leftover and not (file.parent / name).is_file():
            raise ValueError(f"{file}: expected {name} beside it, found no such file")


def check_name(file: Path, name: Any, *suffixes: str) -> None:
    """Raise ValueError where a configuration file names anything but a file beside it of one of the kinds."""
    if not (isinstance(name, str) and "/" not in name and "\\" not in name and name.endswith(suffixes)):
        kinds = " or ".join(suffixes)
        raise ValueError(f"{file}: expected the name of a {kinds} file in its own folder, found {name!r:.80}")
