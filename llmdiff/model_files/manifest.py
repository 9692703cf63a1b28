"""A folder's list of its files with sizes and checksums: ``manifest.json``, which is written last.

A checksum is zlib's CRC-32, at about 2 GB a second: it tells of what a disk, a copy or a broken connection did to a
file. It is no signature.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

MANIFEST = "manifest.json"


class Listed(NamedTuple):
    """A file's entry in the list."""

    size: int
    """Size in bytes."""
    crc32: str
    """CRC-32 as eight hexadecimal digits."""


BLOCK = 1 << 20
"""Bytes read at once."""


def write_manifest(folder: Path, names: Iterable[str], known: Mapping[str, Listed] | None = None) -> None:
    """List files under a folder with size and CRC-32, and the list's own CRC-32; it appears at once and whole.

    Args:
        folder: the folder that holds the files and gets the list.
        names: the files' paths relative to it.
        known: entries of files that are measured already.
    """
    from storage.io.files import write_file  # late: only writing needs the store's packages

    known = known or {}
    files = {name: (known.get(name) or measured(folder / name))._asdict() for name in sorted(names)}
    text = json.dumps({"files": files, "crc32": checksum_of(files)}, indent=1)
    write_file(folder / MANIFEST, f"{text}\n".encode())


def read_manifest(folder: Path) -> dict[str, Listed] | None:
    """Return size and CRC-32 of each file by its path relative to the folder; None where there is no list.

    Raises:
        ValueError: the list is not as it was written, or names something outside of the folder.
    """
    path = folder / MANIFEST
    if not path.exists():
        return None
    try:
        manifest = json.loads(path.read_bytes())
        files = {name: Listed(**about) for name, about in manifest["files"].items()}
        expected, found = manifest["crc32"], checksum_of(manifest["files"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path}: damaged: expected a list of files, found {error!r:.80}") from None
    if found != expected:
        raise ValueError(f"{path}: damaged: expected CRC-32 {expected}, found {found}")
    for name in files:
        if (parts := PurePosixPath(name)).is_absolute() or ".." in parts.parts:
            raise ValueError(f"{path}: expected names inside of the folder, found {name!r}")
    return files


def check_files(folder: Path, names: Iterable[str]) -> bool:
    """Raise ValueError where a file is not as its folder's manifest lists it; return False where there is no manifest.

    Other files may lie there.
    """
    files = read_manifest(folder)
    if files is None:
        return False
    for name in names:
        if name not in files:
            raise ValueError(f"{folder / MANIFEST}: expected {name} in the list, found {', '.join(files)}")
        check_file(folder / name, files[name])
    return True


def check_file(path: Path, listed: Listed) -> None:
    """Raise ValueError where a file is not as it was listed."""
    if not path.is_file():
        raise ValueError(f"{path}: damaged: expected {listed.size} bytes, found no such file")
    if (size := path.stat().st_size) != listed.size:
        raise ValueError(f"{path}: damaged: expected {listed.size} bytes, found {size}")
    if (found := measured(path).crc32) != listed.crc32:
        raise ValueError(f"{path}: damaged: expected CRC-32 {listed.crc32}, found {found}")


def measured(path: Path) -> Listed:
    """Return a file's size and checksum."""
    total = size = 0
    with path.open("rb", buffering=0) as file:
        while block := file.read(BLOCK):
            total, size = zlib.crc32(block, total), size + len(block)
    return Listed(size, f"{total:08x}")


def checksum_of(files: Any) -> str:
    """Return the CRC-32 of the list itself, as eight hexadecimal digits."""
    return f"{zlib.crc32(json.dumps(files, sort_keys=True).encode()):08x}"
