"""Paths of an S3-compatible object store."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, ClassVar

import obstore
import pyarrow as pa
from obstore.exceptions import AlreadyExistsError, BaseError, GenericError

from storage.io import files

if TYPE_CHECKING:
    from obstore.store import ObjectStore

FOOTER = 1 << 19
"""Bytes that are fetched of a Parquet file for its footer, at first."""
RETRY_FOR = timedelta(seconds=60)
"""Time for which a request is tried again that an object store did not answer."""
WAITS = (0.1, 1.0)
"""Seconds before a request is repeated that may have been carried out, which the client does not repeat by itself."""
PROVIDERS = ("AWS_", "GOOGLE_", "AZURE_")
"""Beginnings of the variables that lead a client to a bucket."""


@dataclass(frozen=True, order=True)
class ObjectPath:
    """A prefix or an object, ``s3://bucket/key``; see `storage.io.paths.StorePath`."""

    lock_kind: ClassVar[str] = "lease"
    is_remote: ClassVar[bool] = True
    loses_power: ClassVar[bool] = False

    bucket: str
    key: str

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}"

    def __truediv__(self, name: str) -> ObjectPath:
        return ObjectPath(self.bucket, f"{self.key}/{name}" if self.key else name)

    @property
    def name(self) -> str:
        return PurePosixPath(self.key).name

    @property
    def stem(self) -> str:
        return PurePosixPath(self.key).stem

    @property
    def parent(self) -> ObjectPath:
        return ObjectPath(self.bucket, self.key.rpartition("/")[0])

    @property
    def client(self) -> ObjectStore:
        """The client of the bucket."""
        return bucket_client(f"s3://{self.bucket}")

    def exists(self) -> bool:
        return self.modified() is not None

    def is_file(self) -> bool:
        return self.exists()

    def modified(self) -> datetime | None:
        """Return when an object was written, by the object store's clock; None where there is none."""
        try:
            with self.naming():
                return obstore.head(self.client, self.key)["last_modified"]
        except FileNotFoundError:
            return None

    def read_bytes(self) -> bytes:
        with self.naming():
            return bytes(obstore.get(self.client, self.key).bytes())

    def write(self, data: bytes) -> None:
        """Write an object; it appears whole."""
        with self.naming():
            obstore.put(self.client, self.key, data)

    def create(self, data: bytes) -> bool:
        """Write an object unless there is one: of several that try at once, each with other bytes, one gets True.

        Where the answer to a request was lost, which the client or this repeats, the object is there by then:
        it is ours where it has our bytes.
        """
        return _create(self, data)

    def remove(self) -> None:
        with self.naming():
            keys = [(self / name).key for name in self.file_sizes()]
            obstore.delete(self.client, [self.key, *keys])

    def sync(self) -> None:
        """Do nothing: an object is there once it is written."""

    def make_folder(self) -> None:
        """Do nothing: a prefix is there with its first object."""

    def file_in_the_way(self) -> None:
        """Return None: no object keeps others from lying under its name."""

    def children(self) -> list[ObjectPath]:
        with self.naming():
            found = obstore.list_with_delimiter(self.client, self.key or None)
        keys = [*found["common_prefixes"], *(entry["path"] for entry in found["objects"])]
        return [ObjectPath(self.bucket, key) for key in sorted(keys)]

    def file_sizes(self) -> dict[str, int]:
        with self.naming():
            found = [entry for page in obstore.list(self.client, self.key) for entry in page]
        return {entry["path"].removeprefix(f"{self.key}/"): entry["size"] for entry in found}

    def file_size(self) -> int:
        with self.naming():
            return int(obstore.head(self.client, self.key)["size"])

    def staging_folder(self) -> Path:
        """Return a temporary folder: arrays are uploaded once they are finished."""
        return Path(tempfile.mkdtemp(prefix="llmdiff-"))

    def publish(self, staging: Path) -> None:
        for name in sorted(files.file_sizes(staging)):
            target = self / name
            with target.naming():
                obstore.put(target.client, target.key, staging / name)  # in parts where it is large

    def discard(self, staging: Path) -> None:
        files.remove(staging)

    def staging_file(self) -> Path:
        """Return a temporary file."""
        descriptor, name = tempfile.mkstemp(prefix="llmdiff-")
        os.close(descriptor)
        return Path(name)

    def publish_file(self, staging: Path) -> None:
        """Upload it, and remove it here."""
        try:
            with self.naming():
                obstore.put(self.client, self.key, staging)
        finally:
            staging.unlink(missing_ok=True)

    def arrow_source(self) -> pa.BufferReader:
        with self.naming():
            return pa.BufferReader(pa.py_buffer(obstore.get(self.client, self.key).bytes()))

    def parquet_footer(self) -> pa.BufferReader:
        end = self._end(FOOTER)
        if (length := int.from_bytes(end[-8:-4], "little") + 8) > len(end):  # the footer's last words say its length
            end = self._end(length)
        return pa.BufferReader(end)

    def _end(self, length: int) -> bytes:
        with self.naming():
            return bytes(obstore.get(self.client, self.key, options={"range": {"suffix": length}}).bytes())

    def zarr_location(self) -> tuple[Any, str]:
        from zarr.storage import ObjectStore

        return ObjectStore(self.client, read_only=True), self.key

    @contextmanager
    def naming(self) -> Iterator[None]:
        try:
            yield
        except AlreadyExistsError as error:
            raise FileExistsError(f"{self}: there is an object already") from error
        except OSError as error:
            raise type(error)(f"{self}: {_first_line(error)}") from error
        except BaseError as error:
            raise OSError(f"{self}: {_first_line(error)}") from error


def _create(path: ObjectPath, data: bytes) -> bool:
    for wait in (*WAITS, None):
        try:
            with path.naming():
                obstore.put(path.client, path.key, data, mode="create")
            return True
        except FileExistsError:
            with suppress(FileNotFoundError):  # removed by now, or others are writing it just now
                return path.read_bytes() == data
        except OSError as error:
            if wait is None or not isinstance(error.__cause__, GenericError):
                raise
        time.sleep(wait or 0.0)
    raise OSError(f"{path}: expected an object, or none; found one that others make and remove again and again")


def bucket_client(url: str) -> ObjectStore:
    """Return the client of a bucket, ``s3://name``, ``gs://name`` or ``az://name``, which tries requests again.

    Address and credentials are what the environment names now: a notebook may set them after a first attempt.
    """
    return _client(url, tuple(item for item in os.environ.items() if item[0].upper().startswith(PROVIDERS)))


@lru_cache(maxsize=32)
def _client(url: str, _: tuple[tuple[str, str], ...]) -> ObjectStore:
    from obstore.store import from_url

    return from_url(url, retry_config={"max_retries": 5, "retry_timeout": RETRY_FOR})


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
