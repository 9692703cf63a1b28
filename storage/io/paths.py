"""Where a store may lie: a folder of a disk, or a prefix of an S3-compatible object store."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from obstore.store import ObjectStore

RETRY_FOR = timedelta(seconds=60)
"""How long a request is tried again that an object store did not answer."""


@dataclass(frozen=True, order=True)
class ObjectPath:
    """A prefix or an object of an object store, ``s3://bucket/key``; named and joined as paths are."""

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
        """Of the bucket."""
        return _client(self.bucket)


StorePath: TypeAlias = Path | ObjectPath
"""A folder or a file; `storage.io.files` reads and writes either kind."""


def place(path: str | StorePath) -> StorePath:
    """The place of a path or an ``s3://bucket/prefix`` URL.

    The object store's address and credentials come from the environment (``AWS_ENDPOINT_URL``, ``AWS_ACCESS_KEY_ID``,
    ``AWS_SECRET_ACCESS_KEY``, ``AWS_REGION``; ``AWS_ALLOW_HTTP=true`` for an address without TLS).

    Raises:
        ValueError: a URL of another kind, or one without a bucket.
    """
    if not isinstance(path, str):
        return path
    if "://" not in path:
        return Path(path)
    parts = urlsplit(path)
    if "@" in parts.netloc:  # it would be recorded with every run; not even this error repeats it
        raise ValueError("expected s3://bucket/prefix, found credentials in it: they come from the environment")
    if parts.scheme != "s3" or not parts.netloc:
        raise ValueError(f"{path}: expected a folder or s3://bucket/prefix")
    return ObjectPath(parts.netloc, parts.path.strip("/"))


@lru_cache
def _client(bucket: str) -> ObjectStore:
    from obstore.store import from_url

    return from_url(f"s3://{bucket}", retry_config={"max_retries": 5, "retry_timeout": RETRY_FOR})
