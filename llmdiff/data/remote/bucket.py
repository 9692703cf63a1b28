"""Objects of S3, Google Cloud Storage and Azure, through the client that the encoding store uses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

import obstore
from obstore.exceptions import (
    BaseError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)

from llmdiff.data.remote.place import Child, FileFacts, Refusal
from storage.io.objects import bucket_client

if TYPE_CHECKING:
    from obstore import GetOptions, ObjectMeta
    from obstore.store import ObjectStore


@dataclass(frozen=True)
class Bucket:
    """A bucket, or a container of Azure's; see `llmdiff.data.remote.place.RemotePlace`.

    Address and credentials come from the environment, under the names that each provider's own tools read. Requests are
    tried again by the client.
    """

    can_list: ClassVar[bool] = True

    scheme: str
    name: str

    @property
    def client(self) -> ObjectStore:
        return bucket_client(f"{self.scheme}://{self.name}")

    def address(self, key: str) -> str:
        return f"{self.scheme}://{self.name}/{key}"

    def children(self, key: str) -> Iterator[Child]:
        with self._naming(key):
            found = obstore.list_with_delimiter(self.client, key or None)
        for prefix in found["common_prefixes"]:
            yield Child(prefix.rpartition("/")[2], is_folder=True)
        for entry in found["objects"]:
            if entry["path"] != key:  # without the object that some tools leave in place of a folder
                yield Child(entry["path"].rpartition("/")[2], is_folder=False, facts=_facts(entry))

    def facts(self, key: str) -> FileFacts | None:
        if not key:
            return None
        try:
            with self._naming(key):
                return _facts(obstore.head(self.client, key))
        except FileNotFoundError:
            return None

    def read(self, key: str, start: int, stop: int | None, tag: str) -> bytes:
        options: GetOptions = {"if_match": f'"{tag}"'} if tag else {}
        if stop is not None:
            options["range"] = (start, stop)
        with self._naming(key):
            return bytes(obstore.get(self.client, key, options=options).bytes())

    def only(self, key: str) -> Self:
        return self

    @contextmanager
    def _naming(self, key: str) -> Iterator[None]:
        """Turn the client's errors into those of files, each in one line."""
        try:
            yield
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{self.address(key)}: no such object") from error
        except PreconditionError as error:
            raise ValueError(f"{self.address(key)}: it changed while it was read") from error
        except (PermissionDeniedError, UnauthenticatedError) as error:
            raise Refusal(f"{self.address(key)}: refused; the credentials come from the environment") from error
        except (BaseError, OSError) as error:
            raise ConnectionError(f"{self.address(key)}: {str(error).partition(chr(10))[0]}") from error


def _facts(entry: ObjectMeta) -> FileFacts:
    tag = (entry["e_tag"] or "").strip('"')  # some providers' listings have it without quotes
    return FileFacts(entry["size"], entry["last_modified"].timestamp(), tag)
