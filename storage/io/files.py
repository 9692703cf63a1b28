"""Files that are on the disk when a function returns, and the list of a shard's files with their checksums."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError

from storage.hashing import canonical_json, checksum
from storage.io.paths import ObjectPath, StorePath

MANIFEST = "manifest.json"


def read_file(path: StorePath) -> bytes:
    """A file's bytes; FileNotFoundError where there is none."""
    if isinstance(path, Path):
        return path.read_bytes()
    with naming(path):
        return bytes(obstore.get(path.client, path.key).bytes())


def exists(path: StorePath) -> bool:
    """Whether there is such a file, or on a disk such a folder."""
    if isinstance(path, Path):
        return path.exists()
    try:
        with naming(path):
            obstore.head(path.client, path.key)
    except FileNotFoundError:
        return False
    return True


def write_file(path: StorePath, data: bytes) -> None:
    """Writes a file whole or not at all, under its final name once it is on the disk."""
    if isinstance(path, ObjectPath):
        with naming(path):
            obstore.put(path.client, path.key, data)  # an object appears whole
        return
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


def create_object(path: ObjectPath, data: bytes) -> bool:
    """Writes an object unless there is one: of several that try at once, one gets True."""
    try:
        with naming(path):
            obstore.put(path.client, path.key, data, mode="create")
    except FileExistsError:
        return False
    return True


@contextmanager
def naming(path: StorePath) -> Iterator[None]:
    """Puts a path's name into an error that came without one: a full disk's, an object store's."""
    try:
        yield
    except OSError as error:
        if isinstance(path, ObjectPath):
            raise type(error)(f"{path}: {_first_line(error)}") from error
        if error.filename is None and error.errno is not None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    except AlreadyExistsError as error:
        raise FileExistsError(f"{path}: there is an object already") from error
    except BaseError as error:
        raise OSError(f"{path}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def lock_now(descriptor: int) -> bool:
    """Locks an open file for this process if nobody has it; the kernel frees it however the process ends."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def sync(path: StorePath) -> None:
    """Waits until a file, or a folder's list of names, is on the disk; an object is there once it is written."""
    if isinstance(path, ObjectPath):
        return
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


def upload_tree(folder: Path, target: ObjectPath) -> None:
    """Copies a folder's files to an object store."""
    for name in list_files(folder):
        with naming(target / name):
            obstore.put(target.client, (target / name).key, folder / name)  # in parts where it is large


def list_folder(folder: StorePath) -> list[StorePath]:
    """What lies directly in a folder, sorted; nothing where there is no such folder."""
    if isinstance(folder, Path):
        return sorted(folder.iterdir()) if folder.is_dir() else []
    with naming(folder):
        found = obstore.list_with_delimiter(folder.client, folder.key or None)
    keys = [*found["common_prefixes"], *(entry["path"] for entry in found["objects"])]
    return [ObjectPath(folder.bucket, key) for key in sorted(keys)]


def list_files(folder: StorePath) -> list[str]:
    """Paths of all files under a folder, relative to it, sorted."""
    return sorted(file_sizes(folder))


def file_sizes(folder: StorePath) -> dict[str, int]:
    """Bytes of each file under a folder, by path relative to it; empty where there is no such folder."""
    if isinstance(folder, Path):
        paths = (Path(parent, name) for parent, _, names in os.walk(folder) for name in names)
        return {path.relative_to(folder).as_posix(): path.stat().st_size for path in paths}
    with naming(folder):
        found = [entry for page in obstore.list(folder.client, folder.key) for entry in page]
    return {entry["path"].removeprefix(f"{folder.key}/"): entry["size"] for entry in found}


def file_size(path: StorePath) -> int:
    """Bytes of a file."""
    if isinstance(path, Path):
        return path.stat().st_size
    with naming(path):
        return int(obstore.head(path.client, path.key)["size"])


def write_manifest(folder: Path, known: Mapping[str, dict[str, int]]) -> None:
    """Lists the files under a folder with size and CRC-32C, and the list's own CRC-32C, beside them.

    Args:
        folder: a shard's.
        known: size and CRC-32C of files that need not be read again: what was written is what counts.
    """
    sizes = sorted(file_sizes(folder).items())
    files = {name: known.get(name) or {"size": size, "crc32c": file_checksum(folder / name)} for name, size in sizes}
    manifest = {"files": files, "crc32c": checksum(canonical_json(files).encode())}
    with naming(folder / MANIFEST):
        (folder / MANIFEST).write_bytes(json.dumps(manifest, indent=1).encode())


def read_manifest(folder: StorePath) -> dict[str, dict[str, int]]:
    """Size and CRC-32C of each file of a shard; ValueError where the list is not as it was written."""
    data = read_file(folder / MANIFEST)
    try:
        manifest = json.loads(data)
        files: dict[str, dict[str, int]] = manifest["files"]
        expected = int(manifest["crc32c"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"expected a list of files, found {error!r}") from error
    if (found := checksum(canonical_json(files).encode())) != expected:
        raise ValueError(f"expected CRC-32C {expected:08x}, found {found:08x}")
    return files


def file_checksum(path: StorePath) -> int:
    """CRC-32C of a file: at most one outer chunk, so it fits in memory."""
    return checksum(read_file(path))


def folder_size(folder: StorePath) -> int:
    """Bytes of all files under a folder; 0 where there is none."""
    return sum(file_sizes(folder).values())


def remove(path: StorePath) -> None:
    """Removes a file or a folder, if it is there."""
    if isinstance(path, ObjectPath):
        with naming(path):
            keys = [(path / name).key for name in list_files(path)]
            obstore.delete(path.client, [path.key, *keys])
    elif path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def remove_all(paths: Iterable[StorePath]) -> None:
    """Removes files and folders, for good: no loss of power brings them back."""
    paths = list(paths)
    for path in paths:
        remove(path)
    for folder in {path.parent for path in paths}:
        sync(folder)
