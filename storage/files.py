"""Files that are on the disk when a function returns, and the list of a shard's files with their checksums."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from storage.keys import canonical_json, checksum

MANIFEST = "manifest.json"


def write_file(path: Path, data: bytes) -> None:
    """Writes a file whole or not at all, under its final name once it is on the disk."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with naming(path), part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    sync(path.parent)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Puts a path's name into an OSError that came without one, as that of a write to a full disk does."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def sync(path: Path) -> None:
    """Waits until a file, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Waits until a folder with everything under it is on the disk."""
    for parent, _, names in os.walk(folder, topdown=False):
        for name in names:
            sync(Path(parent, name))
        sync(Path(parent))
    sync(folder.parent)


def list_files(folder: Path) -> Iterator[str]:
    """Paths of all files under a folder, relative to it, sorted."""
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            yield Path(parent, name).relative_to(folder).as_posix()


def write_manifest(folder: Path) -> None:
    """Lists the files under a folder with size and CRC-32C, and the list's own CRC-32C, beside them."""
    files = {}
    for name in list_files(folder):
        path = folder / name
        files[name] = {"size": path.stat().st_size, "crc32c": file_checksum(path)}
    manifest = {"files": files, "crc32c": checksum(canonical_json(files).encode())}
    with naming(folder / MANIFEST):
        (folder / MANIFEST).write_bytes(json.dumps(manifest, indent=1).encode())


def read_manifest(folder: Path) -> dict[str, dict[str, int]]:
    """Size and CRC-32C of each file of a shard; ValueError where the list is not as it was written."""
    data = (folder / MANIFEST).read_bytes()
    try:
        manifest = json.loads(data)
        files: dict[str, dict[str, int]] = manifest["files"]
        expected = int(manifest["crc32c"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"expected a list of files, found {error!r}") from error
    if (found := checksum(canonical_json(files).encode())) != expected:
        raise ValueError(f"expected CRC-32C {expected:08x}, found {found:08x}")
    return files


def file_checksum(path: Path) -> int:
    """CRC-32C of a file: at most one outer chunk, so it fits in memory."""
    return checksum(path.read_bytes())


def folder_size(folder: Path) -> int:
    """Bytes of all files under a folder; 0 where there is none."""
    return sum((folder / name).stat().st_size for name in list_files(folder)) if folder.exists() else 0


def remove(path: Path) -> None:
    """Removes a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
