"""Commits to a table that are on the disk when they return, and whose writers see one another.

A commit's Parquet file is written and synced first, then named by one entry of the Delta log. Each entry carries
application transactions: one names the commit, so that a leftover file can be told from a committed one; the others
name what the commit depends on, so that of two writers at once the second fails, looks again, and commits what is
still missing.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from types import TracebackType

import pyarrow as pa

from storage.index.data_file import write_rows
from storage.index.delta import Action, DataFile, add_action, clash, entry_of, parse_entry, remove_action
from storage.index.shard_counts import KEY, ShardCounts, count_shards, counted_columns, note_of
from storage.index.table import Table, TableVersion

CHECKPOINT_EVERY = 100
ATTEMPTS = 100
LONGEST_WAIT = 5.0
"""Most seconds before a commit that lost is tried again; each writer waits a random time."""

Build = Callable[[TableVersion], tuple[pa.Table, Iterable[str]] | None]
"""Function of the newest version that returns rows to append and the names they depend on; None to commit nothing."""


class LostRaceError(OSError):
    """Another writer's commit came first; nothing was committed."""


def append(table: Table, name: str, build: Build, sizes: Mapping[str, Mapping[str, int]] | None = None) -> int | None:
    """Append rows as one commit, in the file ``<name>.parquet``; return the version that shows them.

    On any exception nothing is visible. OSError where the disk is full or read-only. `sizes` are of the shards of the
    rows, see `ShardCounts.bytes`.
    """
    for attempt in range(ATTEMPTS):
        base = table.newest()
        if (built := build(base)) is None:
            return None
        rows, depends_on = built
        with suppress(LostRaceError), Transaction(table, name, base) as transaction:
            counts = count_shards(rows, sizes or {}) if table.counts_shards else None
            transaction.add(f"{name}.parquet", [rows], counts)
            return transaction.commit(depends_on)
        time.sleep(random.uniform(0, min(LONGEST_WAIT, 0.02 * 1.5**attempt)))  # noqa: S311
    raise OSError(f"{table.folder}: could not commit {name}: other writers came first {ATTEMPTS} times")


def rewrite(table: Table, name: str, change: Callable[[pa.Table], pa.Table]) -> int | None:
    """Replace the newest version's rows by what `change` makes of them, as one commit.

    Earlier versions stay as they were. Return the new version; None if nothing changed.

    Args:
        table: to change.
        name: of the commit.
        change: called once with all rows of each file, a few row groups at a time.
    """
    base = table.newest()
    with Transaction(table, name, base) as transaction:
        for file in base.entries:
            changed = _changed(table, file.name, change)
            if (first := next(changed, None)) is None:
                continue
            transaction.remove(file)
            rows = itertools.chain([first], changed)
            counted = _counted(table, file.name, rows) if table.counts_shards else (rows, None)
            transaction.add(f"{name}~{len(transaction.added)}.parquet", *counted)
        return transaction.commit() if transaction.actions else None


def _changed(table: Table, file: str, change: Callable[[pa.Table], pa.Table]) -> Iterator[pa.Table]:
    """Yield a file's rows as they are to be; nothing where none changes."""
    same = 0
    for before in table.stream_file(file, table.schema.names):
        before = before.cast(table.schema)
        if (after := change(before)).equals(before):
            same += 1
            continue
        break
    else:
        return
    rest = table.stream_file(file, table.schema.names)
    yield from (group for _, group in zip(range(same), rest, strict=False))
    next(rest)
    yield after
    for group in rest:
        yield change(group.cast(table.schema))


def _counted(
    table: Table, file: str, tables: Iterable[pa.Table]
) -> tuple[Iterable[pa.Table], Mapping[str, ShardCounts]]:
    """Return a file's new rows, and what they say of shards, which is there after the last one."""
    counts: dict[str, ShardCounts] = {}
    (before,) = table.shards_of([file])
    sizes = {name: shard.bytes for name, shard in (before or {}).items()}

    def counting() -> Iterator[pa.Table]:
        seen = []
        for rows in tables:
            seen.append(counted_columns(rows))
            yield rows
        counts.update(count_shards(pa.concat_tables(seen).unify_dictionaries(), sizes))

    return counting(), counts


class Transaction:
    """Files to add to a table and to remove from it: one entry of its log, or, after an exception, nothing."""

    def __init__(self, table: Table, name: str, base: TableVersion, data_change: bool = True) -> None:
        """Begin one.

        Args:
            table: to commit to.
            name: never used before.
            base: the version that it is made from.
            data_change: whether the version that it makes has other rows than `base`.
        """
        self.table = table
        self.name = name
        self.base = base
        self.data_change = data_change
        self.actions: list[Action] = []
        self.added: dict[str, DataFile] = {}

    def __enter__(self) -> Transaction:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None and self.added and not self.table.committed(self.name):
            for file in self.added:
                (self.table.folder / file).remove()

    def add(self, name: str, tables: Iterable[pa.Table], counts: Mapping[str, ShardCounts] | None = None) -> None:
        """Write a file of rows, which nothing names before `commit`; no file, where there are none.

        `counts` are of the shards that all the rows were committed with, where they are to be noted; they are looked at
        after the last row.
        """

        def notes() -> dict[str, str]:
            return {} if counts is None else {KEY: note_of(counts)}

        file, stats = write_rows(self.table.folder / name, self.table.schema, tables, notes)
        if not file.rows:
            (self.table.folder / name).remove()
            return
        self.added[name] = file
        self.actions.append(add_action(file, stats, self.data_change))

    def remove(self, file: DataFile) -> None:
        """Take a file out of the versions to come."""
        self.actions.append(remove_action(file, self.data_change))

    def commit(self, depends_on: Iterable[str] = ()) -> int:
        """Write the entry; return the version that shows it. LostRaceError where one that it depends on came first."""
        keys = [self.name, *sorted(set(depends_on))]
        checksums = {name: file.crc32c or 0 for name, file in self.added.items()}
        try:
            version = self._write(entry_of(self.actions, keys, checksums))
            return self.table.finish_commit(self.base.number, version, CHECKPOINT_EVERY)
        except LostRaceError:
            raise
        except (OSError, ValueError) as error:
            raise OSError(f"{self.table.folder}: could not commit {self.name}: {error}") from error

    def _write(self, data: bytes) -> int:
        """Write the entry as the first version after `base` that is free, past those that it does not clash with."""
        ours = parse_entry(data)
        version = self.base.number + 1
        while not self.table.log.write(version, data):
            others = self.table.log.read(version)
            if others is not None and clash(others, ours):
                raise LostRaceError(f"{self.table.folder}: could not commit {self.name}: another came first, {version}")
            version += others is not None
        return version
