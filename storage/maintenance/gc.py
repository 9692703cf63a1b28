"""Takes out of a store what is not wanted: rows from its newest version, then files that no kept version names."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.index.names import Names
from storage.index.row_stream import stream_rows
from storage.index.table import written_by
from storage.index.transaction import rewrite
from storage.io.paths import StorePath, remove_all, tree_size
from storage.maintenance.counts import remember
from storage.maintenance.files import data_files
from storage.store import EncodingStore
from storage.writing.orphans import clear_abandoned, rewriting, uncommitted_files
from storage.writing.removable import check_own_folders, is_removable


@dataclass(frozen=True)
class Collected:
    """The result of `collect`, or of a dry run of it."""

    paths: tuple[str, ...]
    """Paths relative to the store."""
    bytes: int
    kept_versions: tuple[int, ...] | None
    """Numbers of the versions that are kept; None where all are."""
    left_alone: tuple[str, ...] = ()
    """Paths that no kept version names and that are not removed, for they do not look like the store's own."""


def drop(store: EncodingStore, *, fingerprint: str | None = None, source_hash: str | None = None) -> int:
    """Take the rows of an encoder, of a source's content, or of both at once, out of the newest version.

    Earlier versions keep them, and the files stay until `collect` is told that those versions are not kept.

    Returns:
        The new version, or the newest one where there was no such row.

    Raises:
        ValueError: neither is given.
    """
    wanted = {"fingerprint": fingerprint, "source_hash": source_hash}
    wanted = {column: value for column, value in wanted.items() if value is not None}
    if not wanted:
        raise ValueError("drop: expected a fingerprint, a source_hash or both, found none")

    def keep(rows: pa.Table) -> pa.Table:
        dropped = pa.chunked_array([np.full(len(rows), True)])
        for column, value in wanted.items():
            dropped = pc.and_(dropped, pc.is_in(rows[column], value_set=pa.array([value])))
        return rows.filter(pc.invert(dropped))

    name = f"drop-{uuid.uuid4().hex}"
    with rewriting(store, name):
        for table in reversed(store.tables):
            rewritten = rewrite(table, name, keep)
        if rewritten is not None:  # the index, which is the last of them
            remember(store)
    return store.index.newest().number


def collect(store: EncodingStore, keep: Iterable[int] | None = None, dry_run: bool = False) -> Collected:
    """Remove the files that no kept version names, and what killed writers left; never what a writer is writing.

    Args:
        store: opened at its newest version.
        keep: versions to keep beside the newest one; the others can't be opened afterwards. None keeps all.
        dry_run: remove nothing, only report.

    Raises:
        ValueError: there is no such version to keep; a folder of the store is a link that leads out of it.
    """
    check_own_folders(store)
    with store.locks.removing():
        kept = None if keep is None else tuple(sorted({*keep, store.index.newest().number}))
        found = list(_unnamed_files(store, kept))
        unnamed = [path for path in found if is_removable(store, path)]
        left = [lock.name for lock in store.locks.abandoned(forget=False)]
        paths = sorted({*unnamed, *(path for name in left for path in uncommitted_files(store, name))}, key=str)
        alone = sorted(set(found) - set(unnamed), key=str)
        collected = Collected(_names(paths), sum(map(_size, paths)), kept, _names(alone))
        if not dry_run:
            remove_all(paths)
            for path in store.locks.leftovers():
                path.remove()
            clear_abandoned(store)
    return collected


def _unnamed_files(store: EncodingStore, kept: tuple[int, ...] | None) -> Iterable[StorePath]:
    """Yield shards, and files of the tables, that no kept version names and no writer has locked."""
    found = data_files(store)  # before the locks: a writer's lock is older than its files
    locked = set(store.locks.held())
    files = _index_files(store, kept)
    shards = _shards_named_in(store, files)
    is_named: dict[str, Callable[[str], bool]] = {
        "shards": shards.__contains__,
        "index": files.__contains__,
        "rejects": store.reject_table.wrote,
        "repeats": store.repeat_table.wrote,
    }
    for path in found:
        if written_by(path.name) not in locked and not is_named[path.parent.name](path.name):
            yield path


def _index_files(store: EncodingStore, kept: tuple[int, ...] | None) -> set[str]:
    if kept is None:
        return {path.name for path in store.index.parquet_files() if store.index.wrote(path.name)}
    return {name for version in kept for name in store.index.at(version).files}


def _shards_named_in(store: EncodingStore, files: Iterable[str]) -> set[str]:
    names = Names()
    for batch in stream_rows(store.index, sorted(files), ["encoding_shard", "latent_shard"]):
        for column in batch.columns:
            names.numbers(column.drop_null())
    return set(names.values)


def _names(paths: Iterable[StorePath]) -> tuple[str, ...]:
    return tuple(f"{path.parent.name}/{path.name}" for path in paths)


def _size(path: StorePath) -> int:
    """Return the bytes of a file of a table or of a shard's folder."""
    return tree_size(path) if path.parent.name == "shards" else path.file_size()
