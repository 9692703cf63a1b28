"""The kind of lock that works where a store lies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from storage.io.paths import StorePath
from storage.locks.base import WriterLocks
from storage.locks.file import FileLocks
from storage.locks.lease import LeaseLocks

KINDS: dict[str, Callable[[Any], WriterLocks]] = {"file": FileLocks, "lease": LeaseLocks}


def select_locks(folder: StorePath) -> WriterLocks:
    """Return the locks that lie in a store's folder for them."""
    return KINDS[folder.lock_kind](folder)
