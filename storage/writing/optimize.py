"""The compaction of a store's tables: by itself every so many commits, or all that can be done at once."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pyarrow as pa

from storage.index.compaction import due, merge, plan
from storage.index.delta import DataFile
from storage.index.lookup import KeyIndex
from storage.index.shard_counts import COLUMNS, ShardCounts, count_shards
from storage.index.table import Table, TableVersion
from storage.index.transaction import LostRaceError
from storage.io.manifest import shard_bytes
from storage.locks.base import LockedError
from storage.locks.mutex import job_mutex
from storage.store import EncodingStore
from storage.writing.orphans import clear_uncommitted

logger = logging.getLogger(__name__)
JOB = "optimize"
"""Name of the mutex that whoever compacts holds."""


@dataclass(frozen=True, kw_only=True)
class OptimizedTable:
    """The result of `optimize` for a table, or of a dry run of it."""

    table: str
    files: int
    """Number of files before."""
    merged: int
    """Number of those files that were merged."""
    into: int
    """Number of files that took their place."""
    rows: int
    """Number of rows written anew."""
    bytes: int
    """Bytes of the files merged, which stay until `llmdiff store gc` is told that no version needs them."""


def optimize(
    store: EncodingStore, dry_run: bool = False, progress: Callable[[int, int], None] = lambda done, rows: None
) -> list[OptimizedTable]:
    """Merge the files of each table into as few as there can be, and write them as today's are.

    Readers, pinned versions and writers go on meanwhile. Killed at any time, the store is as before or as after one of
    the merges, each of which is a commit that changes no row.

    Args:
        store: opened at its newest version.
        dry_run: change nothing, only report.
        progress: called with (rows written, rows in all) now and then.

    Raises:
        LockedError: another process is at it, or, in an object store, somebody removes files.
        ValueError: the store was opened at a version; a file is not as it was committed.
    """
    if store.pinned is not None:
        raise ValueError(f"{store.path}: opened at version {store.pinned.number}, which can't be written to")
    if dry_run:
        return [_report(index, index.table.newest(), plan(index.table.newest())) for index in store.key_indexes]
    store.bring_up_to_date()
    with job_mutex(store.path, JOB) as mutex:
        if not mutex.is_ours:
            raise LockedError(f"{store.path}: being optimized by {mutex.taken_by}")
        versions = [(index, index.table.newest()) for index in store.key_indexes]
        rows = sum(file.rows for _, version in versions for group in plan(version) for file in group)
        done = 0

        def add(count: int) -> None:
            nonlocal done
            done += count
            progress(done, rows)

        return [
            _report(index, version, [group for group in plan(version) if _merge(store, index, group, add)])
            for index, version in versions
        ]


def compact(store: EncodingStore) -> None:
    """Merge files where enough have come together, unless another process is at it; whoever committed calls this.

    What was committed is in, whatever becomes of it: what keeps the merge from being done is logged.
    """
    if not any(due(index.table.newest()) for index in store.key_indexes):
        return
    try:
        with job_mutex(store.path, JOB) as mutex:
            for index in store.key_indexes if mutex.is_ours else ():
                if files := due(index.table.newest()):
                    _merge(store, index, files)
    except (OSError, ValueError) as error:
        logger.warning(
            "%s: its tables could not be compacted, which the next commit tries again: %s", store.path, error
        )


def _merge(
    store: EncodingStore,
    index: KeyIndex,
    files: Sequence[DataFile],
    progress: Callable[[int], None] = lambda rows: None,
) -> bool:
    """Merge files; say whether they were still there."""
    name = f"{JOB}-{uuid.uuid4().hex}"
    lock = store.locks.lock(name)
    if not lock.acquire():
        raise LockedError(f"{lock.path}: another process has it")

    def alive(rows: int) -> None:
        lock.renew()
        progress(rows)

    try:
        counts = _counts_of(store, index.table, files) if index.table.counts_shards else None
        index.make(merge(index.table, name, files, store.locks.committing, alive, counts))
        index.forget(files)
    except LostRaceError as error:
        logger.info("%s", error)
        return False
    finally:
        clear_uncommitted(store, name)
        lock.release()
    return True


def _counts_of(store: EncodingStore, table: Table, files: Sequence[DataFile]) -> dict[str, ShardCounts] | None:
    """Return what files say of shards: as they note it, or, of those of earlier versions of the program, counted.

    None where one does not note it and rows were ever taken out: what is left in a file would not say it.
    """
    found: dict[str, ShardCounts] = {}
    names = [file.name for file in files]
    for name, shards in zip(names, table.shards_of(names), strict=True):
        if shards is None:
            if table.was_rewritten:
                return None
            rows = table.read_file(name, COLUMNS).cast(pa.schema([table.schema.field(column) for column in COLUMNS]))
            sizes = {shard: shard_bytes(store.path, shard) for shard in rows["shard"].unique().to_pylist()}
            shards = count_shards(rows, sizes)
        found |= shards
    return found


def _report(index: KeyIndex, version: TableVersion, groups: Sequence[Sequence[DataFile]]) -> OptimizedTable:
    merged = [file for group in groups for file in group]
    return OptimizedTable(
        table=index.table.folder.name,
        files=len(version.files),
        merged=len(merged),
        into=len(groups),
        rows=sum(file.rows for file in merged),
        bytes=sum(file.size for file in merged),
    )
