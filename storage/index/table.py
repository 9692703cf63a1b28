"""A Delta Lake table as its readers see it: versions, the rows of a version, and which files a commit named."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa

from storage.index.delta import DataFile, first_entry, is_table
from storage.index.log import DeltaLog
from storage.index.state import LogState
from storage.index.table_files import TableFiles
from storage.io.paths import StorePath

REWRITES = ("drop-", "repair-")
"""Beginnings of the names of commits that replace rows; see `storage.index.transaction.rewrite`."""


@dataclass(frozen=True)
class TableVersion:
    """A version of a table: what a reader that opened it sees for ever."""

    number: int
    entries: tuple[DataFile, ...]
    """Files of the version, sorted by name."""

    @cached_property
    def files(self) -> tuple[str, ...]:
        """Names of the version's files."""
        return tuple(file.name for file in self.entries)

    @property
    def rows(self) -> int:
        """Number of rows."""
        return sum(file.rows for file in self.entries)


class Table(TableFiles):
    """One of the store's three tables; safe to use from several threads and processes."""

    def __init__(self, folder: StorePath, schema: pa.Schema, counts_shards: bool = False) -> None:
        """Open the table in a folder; with `counts_shards`, its files note what they say of shards."""
        super().__init__(folder, schema)
        self.counts_shards = counts_shards
        self.log = DeltaLog(folder)
        self._lock = threading.RLock()
        self._state: LogState | None = None
        self._version: TableVersion | None = None

    def create(self) -> None:
        """Make an empty table; leave one that is there as it is."""
        self.folder.make_folder()
        if self.folder.loses_power:
            self.log.remove_torn()
        self.log.log.make_folder()
        self.folder.sync()
        if not is_table(str(self.folder)):
            self.log.write(0, first_entry(self.schema))
        self.log.sync(0)

    @property
    def id(self) -> str:
        """The random UUID that Delta gave the table when it was made; a copy of the table has it, too."""
        with self._lock:
            return str(self._newest().id)

    def newest(self) -> TableVersion:
        """Return the newest version; ValueError where the log can't be read, or its newest entry was lost."""
        with self._lock:
            state = self._newest()
            if self._version is None or self._version.number != state.version:
                self._version = self._seen(state)
            return self._version

    def at(self, number: int) -> TableVersion:
        """Return a version; ValueError where the table has no such version or files of it are gone."""
        try:
            state = LogState.load(self.log, number)
        except ValueError as error:
            raise ValueError(f"{self.folder}: version {number}: {error}") from error
        if state.version != number:
            with self._lock:
                newest = self._newest().version
            raise ValueError(f"{self.folder}: expected version {number}, found versions 0 to {newest}")
        with self._lock:
            found = self._seen(state)
        if gone := self.missing(found.files):
            raise ValueError(f"{self.folder}: version {number} is not kept any more: {gone[0]} is gone")
        return found

    def read(self, version: TableVersion, columns: Sequence[str], filters: Any = None) -> pa.Table:
        """Read columns of a version, its rows in no particular order; columns of few values come as dictionaries."""
        return self.read_files(version.files, columns, filters)

    def stream(
        self, version: TableVersion, columns: Sequence[str], fingerprint: str | None = None
    ) -> Iterator[pa.Table]:
        """Yield columns of a version a few row groups at a time, file after file in the version's order; no empty ones.

        With `fingerprint`, rows of that encoder alone: row groups whose statistics exclude it are not read. Columns of
        few values come as dictionaries.
        """
        for file in version.files:
            yield from self.stream_file(file, columns, fingerprint)

    def committed(self, name: str) -> bool:
        """Return whether a commit of this name ever went in."""
        with self._lock:
            return self._newest().committed(name)

    def newest_and_rewrites(self) -> tuple[TableVersion, frozenset[str]]:
        """Return the newest version, and the names of the commits before it that took rows out or moved them."""
        with self._lock:
            version = self.newest()
            assert self._state is not None
            return version, self._state.committed_like(REWRITES)

    @property
    def was_rewritten(self) -> bool:
        """Whether rows were ever taken out of the table or moved."""
        return bool(self.newest_and_rewrites()[1])

    def wrote(self, file: str) -> bool:
        """Return whether a commit or a rewrite that went in wrote this file."""
        return self.committed(written_by(file))

    def uncommitted_files(self, name: str, rewrote: bool = True) -> list[StorePath]:
        """Return the files of a commit or a rewrite of this name, if it did not go in; a commit alone has one file."""
        if rewrote:
            found = [path for path in self.parquet_files() if written_by(path.name) == name]
        else:
            found = [path for path in [self.folder / f"{name}.parquet"] if path.exists()]
        return [] if not found or self.committed(name) else found

    def check_files(self, version: TableVersion) -> Iterator[tuple[str, str, str]]:
        """Yield kind, name and what was found of a version's files that are not as they were committed."""
        checksums = {file.name: file.crc32c for file in version.entries}
        if None in checksums.values():  # from before entries held checksums, in a log that was summed up since
            noted = self.log.checksums(version.number)
            checksums = {name: noted.get(name) for name in checksums}
        yield from self.compare(checksums)

    def finish_commit(self, base: int, ours: int, checkpoint_every: int) -> int:
        """Bring the entries after version `base` to the disk, sum the log up now and then; return the newest one."""
        with self._lock:
            state = self._newest()
            version = state.version
            for entry in range(base + 1, version + 1):
                self.log.sync(entry, entry == ours)
            doublings = max(0, (version // (100 * checkpoint_every)).bit_length() - 1)
            every = checkpoint_every << doublings  # their sizes grow with the log, so they come less often
            if version // every > base // every:
                self.log.checkpoint()
        return version

    def _newest(self) -> LogState:
        try:
            if self._state is None:
                self._state = self._load()
            else:
                self._state.advance()
        except ValueError as error:
            raise ValueError(f"{self.folder}: expected a Delta table, found none that can be read: {error}") from error
        return self._state

    def _load(self) -> LogState:
        try:
            return LogState.load(self.log)
        except ValueError:
            if not self.folder.loses_power or not self.log.remove_torn():
                raise
            return LogState.load(self.log)

    def _seen(self, state: LogState) -> TableVersion:
        """Return the version that a state is at, and keep its files' checksums in mind."""
        version = TableVersion(state.version, tuple(file for _, file in sorted(state.files.items())))
        self.note(version.entries)
        return version


def written_by(file: str) -> str:
    """Return the name of the commit, or of the rewrite, that a file was written for."""
    return file.removesuffix(".parquet").partition("~")[0]
