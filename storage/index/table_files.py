"""The Parquet files of a table, read after a look at their checksums."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from storage.hashing import checksum
from storage.index.data_file import Source, check_bytes
from storage.index.delta import DataFile
from storage.index.log import REQUESTS_AT_ONCE
from storage.index.shard_counts import ShardCounts, noted
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

THREADS = min(4, os.cpu_count() or 1)
"""Number of threads that read from a disk; more would wait for the thread that takes what they read."""
THREADS_REMOTE, FETCHED_AT_ONCE = 8, 512 * 1024**2
"""Number of threads that wait for an object store, and most bytes that they hold."""
GROUPS_AT_ONCE = 4
"""Number of row groups that are read together: each read takes time of its own."""
LOOKED_AT_ONE_BY_ONE = 1000
"""Most files of a version that are looked for one by one; of more, the folder is listed."""


class TableFiles:
    """Reader of the files in a table's folder, by name."""

    def __init__(self, folder: StorePath, schema: pa.Schema) -> None:
        self.folder = folder
        self.schema = schema
        self._crcs: dict[str, int | None] = {}
        """Checksums by file; None where it was compared already, or nothing says it."""
        self._sizes: dict[str, int] = {}
        """Sizes in bytes by file."""

    def note(self, files: Iterable[DataFile]) -> None:
        """Keep the checksums of files in mind, to compare each before the file is first read."""
        for file in files:
            self._crcs.setdefault(file.name, file.crc32c)
            self._sizes[file.name] = file.size

    def read_at_once(self, files: Sequence[str]) -> int:
        """Return how many of some files to read at once: of remote ones, which are fetched whole, as memory allows."""
        if not self.folder.is_remote:
            return min(THREADS, len(files))
        largest = max((self._sizes.get(file, 0) for file in files), default=0)
        return min(THREADS_REMOTE, len(files), max(1, FETCHED_AT_ONCE // max(1, largest)))

    def read_files(self, files: Sequence[str], columns: Sequence[str], filters: Any = None) -> pa.Table:
        """Read columns of files, their rows in no particular order; columns of few values come as dictionaries."""
        if not files:
            return self._empty(columns)
        options = {"columns": columns, "filters": filters}
        at_once = REQUESTS_AT_ONCE if self.folder.is_remote else 1
        with ThreadPoolExecutor(at_once) as pool:
            tables = list(pool.map(lambda file: self.read_file(file, **options), files))
        return pa.concat_tables(tables).unify_dictionaries()

    def stream_file(
        self, file: str, columns: Sequence[str], fingerprint: str | None = None, source: Source | None = None
    ) -> Iterator[pa.Table]:
        """Yield columns of one of the table's files likewise; `source` is that of `source_of`, where it is at hand."""
        wanted = [*columns, *["fingerprint"] * (fingerprint is not None and "fingerprint" not in columns)]
        with self.open_file(file, wanted, source) as opened:
            for groups in _read_together(opened.metadata, fingerprint):
                rows = opened.read_row_groups(groups, wanted, use_threads=False)
                if fingerprint is not None:
                    rows = rows.filter(pc.equal(rows["fingerprint"], fingerprint)).select(list(columns))
                if len(rows):
                    yield rows

    def search_file(
        self,
        file: str,
        keys: Sequence[str],
        columns: Sequence[str],
        matches: Callable[[pa.Table], np.ndarray],
        fingerprint: str | None,
    ) -> Iterator[pa.Table]:
        """Yield columns of the rows whose `keys` match, of a few row groups at a time.

        Of row groups where none does `keys` alone are read; none of those whose statistics exclude `fingerprint`.
        """
        with self.open_file(file, columns) as opened:
            for groups in _read_together(opened.metadata, fingerprint):
                found = matches(opened.read_row_groups(groups, keys, use_threads=False))
                if found.any():
                    yield opened.read_row_groups(groups, columns, use_threads=False).filter(pa.array(found))

    def shards_of(self, files: Sequence[str]) -> Iterator[dict[str, ShardCounts] | None]:
        """Yield the note of each of some files about its shards; None for one without. No row is read."""
        with ThreadPoolExecutor(REQUESTS_AT_ONCE if self.folder.is_remote else 1) as pool:
            yield from pool.map(self._noted, files)

    def _noted(self, file: str) -> dict[str, ShardCounts] | None:
        path = self.folder / file
        try:
            return noted(pq.read_metadata(path.parquet_footer()).metadata)
        except (OSError, pa.ArrowInvalid) as error:
            raise ValueError(f"{path}: expected a Parquet file, found {error}") from error

    def open_file(self, file: str, columns: Sequence[str], source: Source | None = None) -> pq.ParquetFile:
        """Open one of the table's files to read columns of it; ValueError where its bytes are not as committed."""
        source = self.source_of(file) if source is None else source
        return pq.ParquetFile(source, read_dictionary=_of_few_values(columns), page_checksum_verification=True)

    def read_file(self, file: str, columns: Sequence[str], **options: Any) -> pa.Table:
        """Read columns of one of the table's files; `options` are of `pyarrow.parquet.read_table`."""
        options = {"partitioning": None, "use_threads": False, "page_checksum_verification": True, **options}
        options = {"columns": list(columns), "read_dictionary": _of_few_values(columns), **options}
        return pq.read_table(self.source_of(file), **options)

    def parquet_files(self) -> list[StorePath]:
        """Return all files of rows in the table's folder, whether or not a version names them."""
        return [path for path in self.folder.children() if path.name.endswith(".parquet")]

    def compare(self, checksums: Mapping[str, int | None]) -> Iterator[tuple[str, str, str]]:
        """Yield kind, name and what was found of files that are not as they were committed."""
        for name, expected in checksums.items():
            try:
                found = checksum((self.folder / name).read_bytes())
            except FileNotFoundError:
                yield "missing", name, "expected a file of the table, found none"
                continue
            if expected is not None and found != expected:
                yield "flipped", name, f"expected CRC-32C {expected:08x}, found {found:08x}"

    def missing(self, files: Sequence[str]) -> list[str]:
        """Return the names of files that are not there."""
        if len(files) > LOOKED_AT_ONE_BY_ONE:
            return sorted(set(files) - {path.name for path in self.parquet_files()})
        with ThreadPoolExecutor(REQUESTS_AT_ONCE if self.folder.is_remote else 1) as pool:
            there = pool.map(lambda file: (self.folder / file).exists(), files)
            return list(itertools.compress(files, (not each for each in there)))

    def source_of(self, file: str) -> Source:
        """Return pyarrow's source of a file, whose bytes are checked the first time; of a remote file its bytes."""
        path = self.folder / file
        source = path.arrow_source()
        if (expected := self._crcs.get(file)) is not None:
            check_bytes(path, source, expected)
            self._crcs[file] = None
        return source

    def _empty(self, columns: Sequence[str]) -> pa.Table:
        few = pa.dictionary(pa.int32(), pa.string())
        fields = [self.schema.field(column) for column in columns]
        return pa.schema(
            [field.with_type(few) if field.name in OF_FEW_VALUES else field for field in fields]
        ).empty_table()


def _read_together(metadata: pq.FileMetaData, fingerprint: str | None) -> Iterator[list[int]]:
    """Yield row groups that may have rows of an encoder, as far as their statistics tell, a few at a time."""
    groups = list(range(metadata.num_row_groups))
    if fingerprint is not None and groups:
        first = metadata.row_group(0)
        place = [first.column(i).path_in_schema for i in range(first.num_columns)].index("fingerprint")
        groups = [group for group in groups if _may_hold(metadata.row_group(group).column(place), fingerprint)]
    for start in range(0, len(groups), GROUPS_AT_ONCE):
        yield groups[start : start + GROUPS_AT_ONCE]


def _may_hold(column: pq.ColumnChunkMetaData, fingerprint: str) -> bool:
    statistics = column.statistics
    if statistics is None or not statistics.has_min_max:
        return True
    return bool(statistics.min <= fingerprint <= statistics.max)


def _of_few_values(columns: Iterable[str]) -> list[str]:
    return [column for column in columns if column in OF_FEW_VALUES]
