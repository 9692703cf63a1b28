"""The interface of a remote place, and what it says about a file without sending its bytes."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Iterator
from typing import ClassVar, NamedTuple, Protocol, Self


class Refusal(ConnectionError):
    """A place refuses access, for want of credentials, or refuses to send part of a file. It is not tried again."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.errno = errno.EACCES


class FileFacts(NamedTuple):
    """Facts of a file that a place tells without sending its bytes."""

    size: int
    """Size in bytes."""
    modified: float = 0.0
    """Time of the last change in seconds since 1970, by the place's clock; 0 where the place does not say."""
    tag: str = ""
    """Entity tag, which changes with the content; empty where the place has none that can be relied on."""
    sha256: str = ""
    """SHA-256 of the content, where the place knows it."""
    address: str = ""
    """The file's address, where another file may have the same tag; empty where tags differ between files too."""

    @property
    def content_hash(self) -> str | None:
        """SHA-256 that identifies the content; None where only the bytes can."""
        if self.sha256 or not self.tag:
            return self.sha256 or None
        told = [self.address] * bool(self.address) + [self.tag, str(self.size)]
        return hashlib.sha256(":".join(told).encode()).hexdigest()


class Child(NamedTuple):
    """A name that lies directly in a folder."""

    name: str
    is_folder: bool
    facts: FileFacts | None = None
    """What the listing says of a file; None for a folder, and where it says nothing."""


class RemotePlace(Protocol):
    """A bucket, a web server or a data set of the hub. It is pickled with the shards that lie there.

    Keys are paths below it, without a slash at either end. Every method raises ConnectionError where the place does not
    answer, after some tries, or Refusal.
    """

    can_list: ClassVar[bool]
    """Whether the place lists its files, with facts of each; else it knows only the files that were given."""

    def address(self, key: str) -> str:
        """Return the address of a file or a folder for people, never with a password or a signature."""

    def children(self, key: str) -> Iterator[Child]:
        """Yield what lies directly in a folder, a page of the listing at a time; nothing where there is no folder."""

    def facts(self, key: str) -> FileFacts | None:
        """Return the facts of a file; None where there is no such file."""

    def read(self, key: str, start: int, stop: int | None, tag: str) -> bytes:
        """Return the bytes from `start` to `stop`, or to the end.

        Raise FileNotFoundError where there is no such file, ValueError where its tag has changed.
        """

    def only(self, key: str) -> Self:
        """Return the place reduced to a file and what lies beside it."""
