"""What a place that answers over the network must be able to do, and what it says about a file without its bytes."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Iterator
from typing import ClassVar, NamedTuple, Protocol, Self


class Refusal(ConnectionError):
    """A place refuses: credentials are missing or wrong, or it gives no part of a file. It is tried no second time."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.errno = errno.EACCES


class FileFacts(NamedTuple):
    """What a place knows of a file without reading it."""

    size: int
    """Bytes."""
    modified: float = 0.0
    """Seconds since 1970 of its last change, by the place's clock; 0 where the place does not say."""
    tag: str = ""
    """Its entity tag: another one where the content changed; empty where the place has none that can be relied on."""
    sha256: str = ""
    """SHA-256 of its content, where the place knows it."""
    address: str = ""
    """Address of the file whose versions alone the tag tells apart; empty where another file's tag is another one."""

    @property
    def content_hash(self) -> str | None:
        """SHA-256 that stands for the content; None where only the bytes can say."""
        if self.sha256 or not self.tag:
            return self.sha256 or None
        told = [self.address] * bool(self.address) + [self.tag, str(self.size)]
        return hashlib.sha256(":".join(told).encode()).hexdigest()


class Child(NamedTuple):
    """A name that lies directly in a folder."""

    name: str
    is_folder: bool
    facts: FileFacts | None = None
    """None for a folder, and where the listing does not say."""


class RemotePlace(Protocol):
    """A bucket, a web server or a data set of the hub. It is pickled with the shards that lie there.

    Keys are paths below it, without a slash at either end. Every method raises ConnectionError where the place does not
    answer, after some tries, or Refusal.
    """

    can_list: ClassVar[bool]
    """Whether it lists what it has, with facts of each file; else it knows the files that were given."""

    def address(self, key: str) -> str:
        """Return what people call a file or a folder; never with a password or a signature in it."""

    def children(self, key: str) -> Iterator[Child]:
        """Give what lies directly in a folder, a page of the listing at a time; nothing where there is no folder."""

    def facts(self, key: str) -> FileFacts | None:
        """Return what is known of a file; None where there is none."""

    def read(self, key: str, start: int, stop: int | None, tag: str) -> bytes:
        """Return the bytes from `start` to `stop`, or to the end.

        FileNotFoundError where there is no such file, ValueError where its tag is no longer this one.
        """

    def only(self, key: str) -> Self:
        """Return as much of the place as a file, and what lies beside it, needs."""
