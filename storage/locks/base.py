"""Locks of writers, wherever a store lies: which shards are being written, and who may remove what."""

from __future__ import annotations

import json
import os
import re
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Protocol

from storage.io.paths import StorePath

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,127}")
"""Names of locks, and so of shards and jobs: none leads to another folder. A file of another name is no lock."""


class LockedError(ValueError):
    """Another process holds what is asked for; nothing was changed, and it may be asked for again."""


class WriterLock(Protocol):
    """The right to write the shard of one name."""

    name: str

    @property
    def path(self) -> StorePath:
        """The file that says whose it is."""

    def acquire(self, removing: bool = False) -> bool:
        """Return whether the lock is ours now; False where another holds it, or held it and died.

        Args:
            removing: `WriterLocks.removing` is held by the caller.
        """

    def renew(self) -> None:
        """Say that the lock's writer is alive; to be called now and then."""

    def release(self, forget: bool = True) -> None:
        """Give the lock back; with `forget` as if it had never been held: nothing half-written is left."""


class WriterLocks(Protocol):
    """The writer locks of a store."""

    def lock(self, name: str) -> WriterLock:
        """Return the lock of a name, which nobody has acquired by that."""

    def held(self) -> list[str]:
        """Return the names that are locked, by the living or the dead."""

    def abandoned(self, forget: bool = True) -> Iterator[WriterLock]:
        """Yield the locks of writers that have died; the caller holds each while it deals with it."""

    def leftovers(self) -> list[StorePath]:
        """Return the files of locks that were never acquired."""

    def committing(self, meanwhile: Callable[[], None] = lambda: None) -> AbstractContextManager[None]:
        """Return a context for naming data by a commit: never while `removing` is held; on a disk by one at a time.

        `meanwhile` is called again and again while others have it.
        """

    def removing(self) -> AbstractContextManager[None]:
        """Return a context in which files that nothing names are removed, or rows are replaced."""


def owner() -> bytes:
    """Return the text of a lock: which process holds it, and since when; never the same twice."""
    found = {"host": socket.gethostname(), "pid": os.getpid(), "since": time.time(), "id": uuid.uuid4().hex}
    return json.dumps(found).encode()
