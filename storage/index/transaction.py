"""Commits to a table that are on the disk when they return, and whose writers see one another.

A commit's Parquet file is written and synced first, then named by one entry of the Delta log. Each entry carries
application transactions: one names the commit, so that a leftover file can be told from a committed one; the others
name what the commit depends on, so that of two writers at once the second fails, looks again, and commits what is
still missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake.exceptions import DeltaError

from storage.hashing import checksum
from storage.index.delta import add_action, lost_the_race, remove_action, write_entry
from storage.index.table import Table, TableVersion

CHECKPOINT_EVERY = 100
ATTEMPTS = 100

Build = Callable[[TableVersion], tuple[pa.Table, Iterable[str]] | None]
"""From the newest version, the rows to append and the names of what they depend on; None to commit nothing."""


class LostRaceError(OSError):
    """Another writer's commit came first; nothing was committed."""


def append(table: Table, name: str, build: Build) -> int | None:
    """Append rows as one commit, in the file ``<name>.parquet``; return the version that shows them.

    On any exception nothing is visible. OSError where the disk is full or read-only.
    """
    for _ in range(ATTEMPTS):
        base = table.newest()
        if (built := build(base)) is None:
            return None
        rows, depends_on = built
        with suppress(LostRaceError), Transaction(table, name, base) as transaction:
            transaction.add(f"{name}.parquet", rows)
            return transaction.commit(depends_on)
    raise OSError(f"{table.folder}: could not commit {name}: other writers came first {ATTEMPTS} times")


def rewrite(table: Table, name: str, change: Callable[[pa.Table], pa.Table]) -> int | None:
    """Replace the newest version's rows by what `change` makes of each file's, as one commit.

    Earlier versions stay as they were. Return the new version; None if nothing changed.
    """
    base = table.newest()
    with Transaction(table, name, base) as transaction:
        for file in base.files:
            before = table.read_file(file, table.schema.names)
            after = change(before)
            if after.equals(before):
                continue
            transaction.remove(file)
            if len(after):
                transaction.add(f"{name}~{len(transaction.added)}.parquet", after)
        return transaction.commit() if transaction.actions else None


class Transaction:
    """Files to add to a table and to remove from it: one entry of its log, or, after an exception, nothing."""

    def __init__(self, table: Table, name: str, base: TableVersion) -> None:
        self.table = table
        self.name = name
        self.base = base
        self.actions: list[Any] = []
        self.added: dict[str, int] = {}
        """CRC-32C of each file written."""

    def __enter__(self) -> Transaction:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None and self.added and not self.table.committed(self.name):
            for file in self.added:
                (self.table.folder / file).remove()

    def add(self, file: str, rows: pa.Table) -> None:
        """Write a file of rows, which nothing names before `commit`."""
        data = _parquet(rows.cast(self.table.schema))
        self.added[file] = checksum(data)
        (self.table.folder / file).write(data)
        self.actions.append(add_action(file, len(rows), len(data)))

    def remove(self, file: str) -> None:
        """Take a file out of the versions to come."""
        self.actions.append(remove_action(file, (self.table.folder / file).file_size()))

    def commit(self, depends_on: Iterable[str] = ()) -> int:
        """Write the entry; return the version that shows it. LostRaceError where one that it depends on came first."""
        keys = [self.name, *sorted(set(depends_on))]
        try:
            write_entry(str(self.table.folder), self.base.number, self.actions, self.table.schema, keys, self.added)
            return self.table.finish_commit(self.base.number, CHECKPOINT_EVERY)
        except (DeltaError, OSError) as error:
            kind = LostRaceError if lost_the_race(error) else OSError
            raise kind(f"{self.table.folder}: could not commit {self.name}: {error}") from error


def _parquet(rows: pa.Table) -> bytes:
    """Return Parquet bytes with a checksum on each page."""
    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink, compression="zstd", write_page_checksum=True)
    return sink.getvalue().to_pybytes()
