"""A Delta Lake table as its readers see it: versions, the rows of a version, and which files a commit named."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from storage.hashing import checksum
from storage.index.delta import create_table, file_names
from storage.index.log import DeltaLog
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
REQUESTS_AT_ONCE = 16
"""Files asked of an object store at once, for there each is a wait."""


@dataclass(frozen=True)
class TableVersion:
    """A version of a table: what a reader that opened it sees for ever."""

    number: int
    files: tuple[str, ...]


class Table:
    """One of the store's three tables; safe to use from several threads and processes."""

    def __init__(self, folder: StorePath, schema: pa.Schema) -> None:
        self.folder = folder
        self.log = DeltaLog(folder)
        self.schema = schema
        self._lock = threading.Lock()
        self._delta: DeltaTable | None = None
        self._cache: dict[tuple[str, tuple[str, ...]], pa.Table] = {}

    def create(self) -> None:
        """Make an empty table; leave one that is there as it is."""
        self.folder.make_folder()
        if self.folder.loses_power:
            self.log.remove_torn()
        create_table(str(self.folder), self.schema)
        self.folder.sync()
        self.log.sync(0)

    @property
    def id(self) -> str:
        """The random UUID that Delta gave the table when it was made; a copy of the table has it, too."""
        with self._lock:
            return str(self._newest().metadata().id)

    def newest(self) -> TableVersion:
        """Return the newest version."""
        with self._lock:
            delta = self._newest()
            return TableVersion(delta.version(), file_names(delta))

    def at(self, number: int) -> TableVersion:
        """Return a version; ValueError where the table has no such version or files of it are gone."""
        with self._lock:
            found = TableVersion(number, file_names(self._at(number)))
        there = {path.name for path in self.parquet_files()}
        for name in sorted(set(found.files) - there):
            raise ValueError(f"{self.folder}: version {number} is not kept any more: {name} is gone")
        return found

    def read(self, version: TableVersion, columns: Sequence[str], filters: Any = None) -> pa.Table:
        """Read columns of a version, its rows in no particular order; columns of few values come as dictionaries."""
        if not version.files:
            return self._empty(columns)
        options = {"columns": list(columns), "filters": filters, "read_dictionary": _of_few_values(columns)}
        if self.folder.is_remote:
            return pa.concat_tables(self._read_files(version.files, **options)).unify_dictionaries()
        paths = [str(self.folder / name) for name in version.files]
        return pq.read_table(paths, partitioning=None, **options).unify_dictionaries()

    def stream(self, version: TableVersion, columns: Sequence[str], fingerprint: str | None = None) -> Iterator[pa.Table]:
        """Yield columns of a version a row group at a time, file after file in the version's order; no empty ones.

        With `fingerprint`, rows of that encoder alone: row groups whose statistics exclude it are not read. Columns of
        few values come as dictionaries.
        """
        for file in version.files:
            yield from self.stream_file(file, columns, fingerprint)

    def stream_file(self, file: str, columns: Sequence[str], fingerprint: str | None = None) -> Iterator[pa.Table]:
        """Yield columns of one of the table's files likewise."""
        wanted = [*columns, *["fingerprint"] * (fingerprint is not None and "fingerprint" not in columns)]
        with self.open_file(file, wanted) as opened:
            for group in range(opened.num_row_groups):
                if fingerprint is not None and not _may_hold(opened.metadata.row_group(group), fingerprint):
                    continue
                rows = opened.read_row_group(group, wanted, use_threads=False)
                if fingerprint is not None:
                    rows = rows.filter(pc.equal(rows["fingerprint"], fingerprint)).select(list(columns))
                if len(rows):
                    yield rows

    def open_file(self, file: str, columns: Sequence[str]) -> pq.ParquetFile:
        """Open one of the table's files to read some of its columns."""
        source = (self.folder / file).arrow_source()
        return pq.ParquetFile(source, read_dictionary=_of_few_values(columns), page_checksum_verification=True)

    def cached(self, version: TableVersion, columns: Sequence[str]) -> pa.Table:
        """Read likewise, and keep it in memory for look-ups: a later version reads only the files new to it."""
        columns = tuple(columns)
        options = {"columns": columns, "read_dictionary": _of_few_values(columns)}
        with self._lock:
            known = {name: self._cache[name, columns] for name in version.files if (name, columns) in self._cache}
            new = [name for name in version.files if name not in known]
            tables = known | dict(zip(new, self._read_files(new, **options), strict=True))
            self._cache = {key: table for key, table in self._cache.items() if key[1] != columns}
            self._cache.update({(name, columns): table for name, table in tables.items()})
        return pa.concat_tables(tables.values()) if tables else self._empty(columns)

    def read_file(self, file: str, columns: Sequence[str], **options: Any) -> pa.Table:
        """Read columns of one of the table's files; `options` are of `pyarrow.parquet.read_table`."""
        source = (self.folder / file).arrow_source()
        return pq.read_table(source, columns=list(columns), partitioning=None, use_threads=False, **options)

    def parquet_files(self) -> list[StorePath]:
        """Return all files of rows in the table's folder, whether or not a version names them."""
        return [path for path in self.folder.children() if path.name.endswith(".parquet")]

    def committed(self, name: str) -> bool:
        """Return whether a commit of this name ever went in."""
        with self._lock:
            return self._newest().transaction_version(name) is not None

    def wrote(self, file: str) -> bool:
        """Return whether a commit or a rewrite that went in wrote this file."""
        return self.committed(written_by(file))

    def uncommitted_files(self, name: str) -> list[StorePath]:
        """Return the files of a commit or a rewrite of this name, if it did not go in."""
        if self.committed(name):
            return []
        return [path for path in self.parquet_files() if written_by(path.name) == name]

    def check_files(self, version: TableVersion) -> Iterator[tuple[str, str, str]]:
        """Yield kind, name and what was found of a version's files that are not as they were committed."""
        checksums = self.log.checksums(version.number)
        for name in version.files:
            try:
                found = checksum((self.folder / name).read_bytes())
            except FileNotFoundError:
                yield "missing", name, "expected a file of the table, found none"
                continue
            if name in checksums and found != checksums[name]:
                yield "flipped", name, f"expected CRC-32C {checksums[name]:08x}, found {found:08x}"

    def finish_commit(self, base: int, checkpoint_every: int) -> int:
        """Bring the entries after version `base` to the disk, sum the log up now and then; return the newest one."""
        with self._lock:
            delta = self._newest()
            version = int(delta.version())
            for entry in range(base + 1, version + 1):
                self.log.sync(entry)
            if version // checkpoint_every > base // checkpoint_every:
                self.log.checkpoint(delta)
        return version

    def _read_files(self, files: Sequence[str], **options: Any) -> Iterator[pa.Table]:
        at_once = REQUESTS_AT_ONCE if self.folder.is_remote else 1
        with ThreadPoolExecutor(at_once) as pool:
            yield from pool.map(lambda file: self.read_file(file, **options), files)

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
            if not self.folder.loses_power or not self.log.remove_torn():
                raise
            return DeltaTable(str(self.folder))

    def _at(self, number: int) -> DeltaTable:
        try:
            return DeltaTable(str(self.folder), version=number)
        except DeltaError as error:
            newest = self._newest().version()
            raise ValueError(f"{self.folder}: expected version {number}, found versions 0 to {newest}") from error

    def _empty(self, columns: Sequence[str]) -> pa.Table:
        few = pa.dictionary(pa.int32(), pa.string())
        fields = [self.schema.field(column) for column in columns]
        return pa.schema(
            [field.with_type(few) if field.name in OF_FEW_VALUES else field for field in fields]
        ).empty_table()


def written_by(file: str) -> str:
    """Return the name of the commit, or of the rewrite, that a file was written for."""
    return file.removesuffix(".parquet").partition("~")[0]


def _may_hold(group: pq.RowGroupMetaData, fingerprint: str) -> bool:
    """Return whether a row group may have rows of an encoder, as far as its statistics tell."""
    columns = (group.column(i) for i in range(group.num_columns))
    statistics = next(column.statistics for column in columns if column.path_in_schema == "fingerprint")
    if statistics is None or not statistics.has_min_max:
        return True
    return bool(statistics.min <= fingerprint <= statistics.max)


def _of_few_values(columns: Iterable[str]) -> list[str]:
    return [column for column in columns if column in OF_FEW_VALUES]
