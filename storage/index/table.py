"""A Delta Lake table whose commits are on the disk when they return, and whose writers see one another.

A commit's Parquet file is written and synced first, then named by one entry of the Delta log. Each entry carries
application transactions: one names the commit, so that a leftover file can be told from a committed one; the others
name what the commit depends on, so that of two writers at once the second fails, looks again, and commits what is
still missing.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import CommitProperties, DeltaTable, PostCommitHookProperties, Transaction
from deltalake.exceptions import CommitFailedError, DeltaError
from deltalake.transaction import AddAction, RemoveAction

from storage.hashing import checksum
from storage.index.log import CHECKSUMS, DeltaLog
from storage.io.files import file_size, list_folder, read_file, remove, sync, write_file
from storage.io.paths import StorePath

OF_FEW_VALUES = {
    "fingerprint",
    "encoding_shard",
    "latent_shard",
    "latent_shape",
    "source",
    "source_hash",
    "shard",
    "reason",
}
"""Columns whose values repeat: a million of them as dictionaries take a few megabytes."""
CHECKPOINT_EVERY = 100
ATTEMPTS = 100
LOST_THE_RACE = ("oncurrent", "Failed to commit transaction: ")
"""In what a commit says that failed because another came first: on a disk, and after many tries in an object store."""
REQUESTS_AT_ONCE = 16
KEEP_HISTORY = {"delta.logRetentionDuration": "interval 36500 days", "delta.enableExpiredLogCleanup": "false"}
NO_HOOKS = PostCommitHookProperties(create_checkpoint=False, cleanup_expired_logs=False)


@dataclass(frozen=True)
class Snapshot:
    """A version of a table: what a reader that opened it sees for ever."""

    version: int
    files: tuple[str, ...]


Build = Callable[[Snapshot], tuple[pa.Table, Iterable[str]] | None]
"""From the newest snapshot, the rows to append and the names of what they depend on; None to commit nothing."""


class Table:
    """One of the store's two tables; safe to use from several threads and processes."""

    def __init__(self, folder: StorePath, schema: pa.Schema) -> None:
        self.folder = folder
        self.log = DeltaLog(folder)
        self.schema = schema
        self._lock = threading.Lock()
        self._delta: DeltaTable | None = None
        self._cache: dict[tuple[str, tuple[str, ...]], pa.Table] = {}

    def create(self) -> None:
        """Makes an empty table; leaves one that is there as it is."""
        if isinstance(self.folder, Path):
            self.folder.mkdir(exist_ok=True)
            self.log.remove_torn()
        if not DeltaTable.is_deltatable(str(self.folder)):
            try:
                DeltaTable.create(str(self.folder), self.schema, mode="ignore", configuration=KEEP_HISTORY)
            except CommitFailedError:  # another process made it just now
                DeltaTable(str(self.folder))
        sync(self.folder)
        self.log.sync(0)

    def snapshot(self, version: int | None = None) -> Snapshot:
        """A version, or the newest; ValueError where the table has no such version or files of it are gone."""
        with self._lock:
            delta = self._newest() if version is None else self._at(version)
            files = tuple(sorted(_name(uri) for uri in delta.file_uris()))
            found = Snapshot(delta.version(), files)
        if version is not None:
            there = {path.name for path in self.parquet_files()}
            for name in sorted(set(files) - there):
                raise ValueError(f"{self.folder}: version {version} is not kept any more: {name} is gone")
        return found

    def read(self, snapshot: Snapshot, columns: Sequence[str], filters: Any = None) -> pa.Table:
        """Columns of a snapshot, in no particular order of rows; those of few values (`shard`) as dictionaries."""
        if not snapshot.files:
            return self._empty(columns)
        options = {"columns": list(columns), "filters": filters, "read_dictionary": _of_few_values(columns)}
        if isinstance(self.folder, Path):
            paths = [str(self.folder / name) for name in snapshot.files]
            return pq.read_table(paths, partitioning=None, **options).unify_dictionaries()
        return pa.concat_tables(self._read_files(snapshot.files, **options)).unify_dictionaries()

    def read_file(self, file: str, columns: Sequence[str], **options: Any) -> pa.Table:
        """Columns of one of the table's files; `options` are of `pyarrow.parquet.read_table`."""
        path = self.folder / file
        source = path if isinstance(path, Path) else pa.BufferReader(read_file(path))
        return pq.read_table(source, columns=list(columns), partitioning=None, use_threads=False, **options)

    def _read_files(self, files: Sequence[str], **options: Any) -> Iterator[pa.Table]:
        """Several files; from an object store many at once, for there each is a wait."""
        at_once = 1 if isinstance(self.folder, Path) else REQUESTS_AT_ONCE
        with ThreadPoolExecutor(at_once) as pool:
            yield from pool.map(lambda file: self.read_file(file, **options), files)

    def parquet_files(self) -> list[StorePath]:
        """All files of rows in the table's folder, whether or not a version names them."""
        return [path for path in list_folder(self.folder) if path.name.endswith(".parquet")]

    def cached(self, snapshot: Snapshot, columns: Sequence[str]) -> pa.Table:
        """As `read`, and kept in memory for look-ups: a later snapshot reads only the files that are new to it."""
        columns = tuple(columns)
        with self._lock:
            known = {name: self._cache[name, columns] for name in snapshot.files if (name, columns) in self._cache}
            new = [name for name in snapshot.files if name not in known]
            tables = known | dict(
                zip(new, self._read_files(new, columns=columns, read_dictionary=_of_few_values(columns)), strict=True)
            )
            self._cache = {key: table for key, table in self._cache.items() if key[1] != columns}
            self._cache.update({(name, columns): table for name, table in tables.items()})
        return pa.concat_tables(tables.values()) if tables else self._empty(columns)

    def committed(self, name: str) -> bool:
        """Whether a commit of this name ever went in."""
        with self._lock:
            return self._newest().transaction_version(name) is not None

    def wrote(self, file: str) -> bool:
        """Whether a commit or a rewrite that went in wrote this file."""
        return self.committed(written_by(file))

    def uncommitted_files(self, name: str) -> list[StorePath]:
        """Files of a commit or a rewrite of this name, if it did not go in."""
        if self.committed(name):
            return []
        return [path for path in self.parquet_files() if written_by(path.name) == name]

    def commit(self, name: str, build: Build) -> int | None:
        """Appends rows as one commit, in the file ``<name>.parquet``; returns the version that shows them.

        On any exception nothing is visible. OSError where the disk is full or read-only.
        """
        path = self.folder / f"{name}.parquet"
        for _ in range(ATTEMPTS):
            snapshot = self.snapshot()
            built = build(snapshot)
            if built is None:
                remove(path)
                return None
            rows, depends_on = built
            data = self._parquet(rows)
            write_file(path, data)
            try:
                return self._write(snapshot, [self._add(path, rows, data)], {path.name: data}, name, depends_on)
            except CommitFailedError as error:
                if not any(words in str(error) for words in LOST_THE_RACE):
                    self._withdraw(path, name, error)
            except (DeltaError, OSError) as error:
                self._withdraw(path, name, error)
        remove(path)
        raise OSError(f"{self.folder}: could not commit {name}: other writers came first {ATTEMPTS} times")

    def rewrite(self, name: str, change: Callable[[pa.Table], pa.Table]) -> int | None:
        """Replaces the newest snapshot's rows by what `change` makes of each file's, as one commit.

        Earlier versions stay as they were. Returns the new version; None if nothing changed.
        """
        snapshot = self.snapshot()
        actions: list[Any] = []
        written: dict[str, bytes] = {}
        try:
            for file in snapshot.files:
                before = self.read_file(file, self.schema.names)
                after = change(before)
                if after.equals(before):
                    continue
                actions.append(self._remove(file))
                if len(after):
                    path = self.folder / f"{name}~{len(written)}.parquet"
                    written[path.name] = self._parquet(after)
                    write_file(path, written[path.name])
                    actions.append(self._add(path, after, written[path.name]))
            return self._write(snapshot, actions, written, name, ()) if actions else None
        except BaseException as error:
            if not self.committed(name):
                for file in written:
                    remove(self.folder / file)
            if isinstance(error, DeltaError):
                raise OSError(f"{self.folder}: could not commit {name}: {error}") from error
            raise

    def check_files(self, snapshot: Snapshot) -> Iterator[tuple[str, str, str]]:
        """Files of a snapshot that are not as they were committed, likewise."""
        checksums = self.log.checksums(snapshot.version)
        for name in snapshot.files:
            try:
                found = checksum(read_file(self.folder / name))
            except FileNotFoundError:
                yield "missing", name, "expected a file of the table, found none"
                continue
            if name in checksums and found != checksums[name]:
                yield "flipped", name, f"expected CRC-32C {checksums[name]:08x}, found {found:08x}"

    def _write(
        self, snapshot: Snapshot, actions: list[Any], added: dict[str, bytes], name: str, depends_on: Iterable[str]
    ) -> int:
        """One entry of the log; CommitFailedError where an entry after `snapshot` clashes with it."""
        transactions = [Transaction(key, 1) for key in (name, *sorted(set(depends_on)))]
        checksums = {file: checksum(data) for file, data in added.items()}
        DeltaTable(str(self.folder), version=snapshot.version).create_write_transaction(
            actions,
            "append",
            self.schema,
            commit_properties=CommitProperties({CHECKSUMS: json.dumps(checksums)}, app_transactions=transactions),
            post_commithook_properties=NO_HOOKS,
        )
        with self._lock:
            delta = self._newest()
            version = int(delta.version())
            for entry in range(snapshot.version + 1, version + 1):
                self.log.sync(entry)
            if version // CHECKPOINT_EVERY > snapshot.version // CHECKPOINT_EVERY:
                self.log.checkpoint(delta)
        return version

    def _withdraw(self, path: StorePath, name: str, error: Exception) -> None:
        """Removes a file that no entry names, and raises; if the entry went in after all, only raises."""
        if not self.committed(name):
            remove(path)
        raise OSError(f"{self.folder}: could not commit {name}: {error}") from error

    def _newest(self) -> DeltaTable:
        try:
            if self._delta is None:
                self._delta = self._open()
            else:
                self._delta.update_incremental()
        except DeltaError as error:
            raise ValueError(f"{self.folder}: expected a Delta table, found none that can be read: {error}") from error
        return self._delta

    def _open(self) -> DeltaTable:
        try:
            return DeltaTable(str(self.folder))
        except DeltaError:
            if not isinstance(self.folder, Path) or not self.log.remove_torn():
                raise
            return DeltaTable(str(self.folder))

    def _at(self, version: int) -> DeltaTable:
        try:
            return DeltaTable(str(self.folder), version=version)
        except DeltaError as error:
            newest = self._newest().version()
            raise ValueError(f"{self.folder}: expected version {version}, found versions 0 to {newest}") from error

    def _empty(self, columns: Sequence[str]) -> pa.Table:
        few = pa.dictionary(pa.int32(), pa.string())
        fields = [self.schema.field(column) for column in columns]
        return pa.schema(
            [field.with_type(few) if field.name in OF_FEW_VALUES else field for field in fields]
        ).empty_table()

    def _parquet(self, rows: pa.Table) -> bytes:
        """Parquet bytes with a checksum on each page."""
        sink = pa.BufferOutputStream()
        pq.write_table(rows.cast(self.schema), sink, compression="zstd", write_page_checksum=True)
        return sink.getvalue().to_pybytes()

    def _add(self, path: StorePath, rows: pa.Table, data: bytes) -> AddAction:
        stats = json.dumps({"numRecords": len(rows)})
        return AddAction(path.name, len(data), {}, int(time.time() * 1000), True, stats)

    def _remove(self, file: str) -> RemoveAction:
        return RemoveAction(file, True, int(time.time() * 1000), file_size(self.folder / file), {})


def _of_few_values(columns: Iterable[str]) -> list[str]:
    return [column for column in columns if column in OF_FEW_VALUES]


def written_by(file: str) -> str:
    """The name of the commit, or of the rewrite, that a file was written for."""
    return file.removesuffix(".parquet").partition("~")[0]


def _name(uri: str) -> str:
    return Path(unquote(urlparse(uri).path) if "://" in uri else uri).name
