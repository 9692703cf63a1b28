"""Paths of stores: what a store needs of a path, paths of a disk, and the reading of a path or a URL."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path, PosixPath
from typing import Any, ClassVar, Protocol, Self
from urllib.parse import urlsplit

import pyarrow as pa

from storage.io import files
from storage.io.objects import ObjectPath


class StorePath(Protocol):
    """A folder or a file of a store, wherever it lies; it is named and joined as `pathlib.Path` is."""

    lock_kind: ClassVar[str]
    """Kind of lock that keeps writers apart: ``file`` or ``lease``; see `storage.locks.select`."""
    is_remote: ClassVar[bool]
    """Whether each read waits for a server, which may not answer."""
    loses_power: ClassVar[bool]
    """Whether a loss of power can cut off what was written last."""

    @property
    def name(self) -> str: ...

    @property
    def stem(self) -> str: ...

    @property
    def parent(self) -> Self: ...

    def __truediv__(self, name: str, /) -> Self: ...

    def exists(self) -> bool:
        """Return whether there is such a file, or on a disk such a folder."""

    def is_file(self) -> bool:
        """Return whether there is such a file."""

    def read_bytes(self) -> bytes:
        """Return a file's bytes; FileNotFoundError where there is none."""

    def write(self, data: bytes) -> None:
        """Write a file whole or not at all."""

    def create(self, data: bytes) -> bool:
        """Write a file whole unless there is one: of several that try at once, each with other bytes, one gets True."""

    def remove(self) -> None:
        """Remove a file or a folder, if it is there."""

    def sync(self) -> None:
        """Wait until a file, or a folder's list of names, survives a loss of power."""

    def make_folder(self) -> None:
        """Make a folder and those above it, where there are folders."""

    def file_in_the_way(self) -> Path | None:
        """Return the file that keeps a folder of this name from being made, if there is one."""

    def children(self) -> list[Self]:
        """Return what lies directly in a folder, sorted; nothing where there is no such folder."""

    def file_sizes(self) -> dict[str, int]:
        """Return the bytes of each file under a folder, by path relative to it."""

    def file_size(self) -> int:
        """Return the bytes of a file."""

    def staging_folder(self) -> Path:
        """Return the local folder in which to write what `publish` makes this folder hold."""

    def publish(self, staging: Path) -> None:
        """Bring all that was written in the staging folder here, for good."""

    def discard(self, staging: Path) -> None:
        """Remove the staging folder, where it is another one than this."""

    def staging_file(self) -> Path:
        """Return the local file in which to write what `publish_file` makes this file hold."""

    def publish_file(self, staging: Path) -> None:
        """Bring a staging file here, for good."""

    def arrow_source(self) -> str | pa.BufferReader:
        """Return pyarrow's source of this file."""

    def parquet_footer(self) -> str | pa.BufferReader:
        """Return pyarrow's source of a Parquet file's footer: of a remote file no more than that is fetched."""

    def zarr_location(self) -> tuple[Any, str]:
        """Return the Zarr store that an array in this folder lies in, and the array's path there."""

    def naming(self) -> AbstractContextManager[None]:
        """Return a context that puts this path's name into an error that comes without one."""


class LocalPath(PosixPath):
    """A path of a disk; see `StorePath`."""

    __slots__ = ()

    lock_kind: ClassVar[str] = "file"
    is_remote: ClassVar[bool] = False
    loses_power: ClassVar[bool] = True

    def write(self, data: bytes) -> None:
        files.write_file(self, data)

    def create(self, data: bytes) -> bool:
        return files.create_file(self, data)

    def remove(self) -> None:
        files.remove(self)

    def sync(self) -> None:
        files.sync(self)

    def make_folder(self) -> None:
        self.mkdir(parents=True, exist_ok=True)

    def file_in_the_way(self) -> Path | None:
        there = next(path for path in (self, *self.absolute().parents) if path.exists())
        return None if there.is_dir() else there

    def children(self) -> list[Self]:
        return sorted(self.iterdir()) if self.is_dir() else []

    def file_sizes(self) -> dict[str, int]:
        return files.file_sizes(self)

    def file_size(self) -> int:
        return self.stat().st_size

    def staging_folder(self) -> Path:
        """Return the folder itself: nobody looks into it before the commit."""
        return self

    def publish(self, staging: Path) -> None:
        files.sync_tree(staging)

    def discard(self, staging: Path) -> None:
        """Do nothing: it is this folder."""

    def staging_file(self) -> Path:
        """Return the file itself: nothing names it before the commit."""
        return self

    def publish_file(self, staging: Path) -> None:
        with files.naming(self):
            files.sync(staging)
            files.sync(staging.parent)

    def arrow_source(self) -> str:
        return str(self)

    def parquet_footer(self) -> str:
        return str(self)

    def zarr_location(self) -> tuple[Any, str]:
        from zarr.storage import LocalStore

        return LocalStore(self, read_only=True), ""

    def naming(self) -> AbstractContextManager[None]:
        return files.naming(self)


def store_path(path: str | Path | StorePath) -> StorePath:
    """Return the store path of a path or an ``s3://bucket/prefix`` URL.

    The object store's address and credentials come from the environment (``AWS_ENDPOINT_URL``, ``AWS_ACCESS_KEY_ID``,
    ``AWS_SECRET_ACCESS_KEY``, ``AWS_REGION``; ``AWS_ALLOW_HTTP=true`` for an address without TLS).

    Raises:
        ValueError: a URL of another kind, or one without a bucket; a path that Delta's library takes for another.
    """
    if isinstance(path, Path) or (isinstance(path, str) and "://" not in path):
        check_name(Path(path))
        return LocalPath(path)
    if not isinstance(path, str):
        return path
    parts = urlsplit(path)
    if "@" in parts.netloc:  # it would be recorded with every run; not even this error repeats it
        raise ValueError("expected s3://bucket/prefix, found credentials in it: they come from the environment")
    if parts.scheme != "s3" or not parts.netloc:
        raise ValueError(f"{path}: expected a folder or s3://bucket/prefix")
    return ObjectPath(parts.netloc, parts.path.strip("/"))


def check_name(path: Path) -> None:
    """Raise ValueError where a path has a character's code as in a URL: its index would be written, not read."""
    if escape := re.search("%[0-9A-Fa-f]{2}", str(path.absolute())):
        reason = "which Delta's library reads as another character"
        raise ValueError(f"{path.absolute()}: expected a path without {escape[0]!r}, {reason}")


def tree_size(folder: StorePath) -> int:
    """Return the bytes of all files under a folder; 0 where there is none."""
    return sum(folder.file_sizes().values())


def remove_all(paths: Iterable[StorePath]) -> None:
    """Remove files and folders for good: no loss of power brings them back."""
    paths = list(paths)
    for path in paths:
        path.remove()
    for folder in {path.parent for path in paths}:
        folder.sync()
