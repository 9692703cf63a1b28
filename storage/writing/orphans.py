"""Remains of writers that did not come to their commit, and their removal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from storage.io.paths import StorePath, remove_all
from storage.locks.base import LockedError
from storage.store import EncodingStore
from storage.writing.removable import is_removable, lies_inside


def clear_abandoned(store: EncodingStore) -> None:
    """Remove what writers that died left half-written; nothing where their locks lie outside the store."""
    if not lies_inside(store.path, store.path / "writing"):
        return
    for lock in store.locks.abandoned():
        clear_uncommitted(store, lock.name)


def clear_uncommitted(store: EncodingStore, name: str, rewrote: bool = True) -> None:
    """Remove each file of a shard's name that no commit names; the caller holds the shard's lock.

    `rewrote` says whether it may be the name of a rewrite, to find whose files the tables' folders are listed.
    """
    remove_all(uncommitted_files(store, name, rewrote))


def uncommitted_files(store: EncodingStore, name: str, rewrote: bool = True) -> list[StorePath]:
    """Return files and folders of a shard's name that no commit names; what is not the store's own is left out."""
    paths = [path for table in store.tables for path in table.uncommitted_files(name, rewrote)]
    shard = store.path / "shards" / name
    if (shard.exists() or shard.children()) and not store.index.committed(name):
        paths.append(shard)
    return [path for path in paths if is_removable(store, path)]


@contextmanager
def rewriting(store: EncodingStore, name: str) -> Iterator[None]:
    """Hold a name while committed rows are replaced under it; what was not committed at the end is removed.

    LockedError where another process has the name, or, in an object store, a writer is at work.
    """
    lock = store.locks.lock(name)
    with store.locks.removing():
        if not lock.acquire(removing=True):
            raise LockedError(f"{lock.path}: another process has it")
        try:
            yield
        finally:
            clear_uncommitted(store, name)
            lock.release()
