"""Many files of a table to few: which to merge, and the merge, a commit that changes no row.

Files are merged in the order of their commits, and inside a merged file each encoder's rows come together. So rows of
one shard stay side by side, and a few row groups are in memory. Files are of three sizes: merging goes from one to the
next, so each row is written at most three times, however many there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager

import pyarrow as pa
import pyarrow.compute as pc

from storage.index.delta import DataFile
from storage.index.shard_counts import ShardCounts
from storage.index.table import Table, TableVersion
from storage.index.transaction import Transaction

SMALL, LARGE = 1 << 17, 1 << 21
"""Numbers of rows from which on a file is no longer small, and from which on it is large."""
MERGED_AT_ONCE = {range(SMALL): 32, range(SMALL, LARGE): 16}
"""Number of files of similar row count that are merged into one."""
LARGEST = 1 << 21
"""Most rows of a file that `plan` makes."""


def due(version: TableVersion) -> list[DataFile]:
    """Return the files to merge now, the oldest ones of one size; none where there are too few."""
    for size, count in MERGED_AT_ONCE.items():
        if len(files := [file for file in version.entries if file.rows in size]) >= count:
            return sorted(files, key=_age)[:count]
    return []


def plan(version: TableVersion) -> list[list[DataFile]]:
    """Return which files to merge, so that as few are left as there can be, each written as today's are."""
    groups: list[list[DataFile]] = []
    for file in sorted(version.entries, key=_age):
        if file.rows >= LARGE and file.crc32c is not None:
            continue
        if not groups or sum(other.rows for other in groups[-1]) + file.rows > LARGEST:
            groups.append([])
        groups[-1].append(file)
    return [group for group in groups if len(group) > 1 or group[0].crc32c is None]


def merge(
    table: Table,
    name: str,
    files: Sequence[DataFile],
    committing: Callable[[], AbstractContextManager[None]],
    progress: Callable[[int], None] = lambda rows: None,
    counts: Mapping[str, ShardCounts] | None = None,
) -> DataFile:
    """Put one file, ``<name>~0.parquet``, in the place of several, as one commit.

    Earlier versions keep the files that they name.

    Args:
        table: to merge files of.
        name: of the commit.
        files: of the newest version.
        committing: what is held during the commit.
        progress: called with the number of rows written.
        counts: of the shards whose rows these are, to be noted.

    Raises:
        LostRaceError: another writer took one of the files out; nothing was committed.
    """
    with Transaction(table, name, table.newest(), data_change=False) as transaction:
        for file in files:
            transaction.remove(file)
        transaction.add(f"{name}~0.parquet", _counted(_by_encoder(table, files), progress), counts)
        with committing():
            transaction.commit()
    return transaction.added[f"{name}~0.parquet"]


def _by_encoder(table: Table, files: Sequence[DataFile]) -> Iterator[pa.Table]:
    """Yield the files' rows, one encoder's after the other's; those of no encoder first."""
    encoders = {file.name: _encoders(table, file.name) for file in files}
    for encoder in sorted({each for found in encoders.values() for each in found}, key=lambda each: each or ""):
        for file in (file for file, found in encoders.items() if encoder in found):
            for rows in table.stream_file(file, table.schema.names, encoder):
                if encoder is None and len(encoders[file]) > 1:
                    rows = rows.filter(pc.is_null(rows["fingerprint"]))
                yield rows.cast(table.schema)


def _encoders(table: Table, file: str) -> set[str | None]:
    columns = (rows["fingerprint"].unique().to_pylist() for rows in table.stream_file(file, ["fingerprint"]))
    return {encoder for found in columns for encoder in found}


def _counted(tables: Iterator[pa.Table], progress: Callable[[int], None]) -> Iterator[pa.Table]:
    for rows in tables:
        yield rows
        progress(len(rows))


def _age(file: DataFile) -> tuple[int, str]:
    return file.written, file.name
