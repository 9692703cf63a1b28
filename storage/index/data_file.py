"""Parquet files of a table: written a row group at a time, and read after a look at their checksums."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

import crc32c
import pyarrow as pa
import pyarrow.parquet as pq

from storage.index.delta import DataFile, now, statistics
from storage.io.files import naming
from storage.io.paths import StorePath

ROW_GROUP = 16384
"""Number of rows of a row group: few enough to read a group for some of its rows."""
READ_AT_ONCE = 4 * 1024 * 1024
Source: TypeAlias = str | pa.BufferReader
"""Anything that pyarrow reads a file from; see `storage.io.paths.StorePath.arrow_source`."""


def write_rows(
    path: StorePath, schema: pa.Schema, tables: Iterable[pa.Table], notes: Callable[[], Mapping[str, str]] = dict
) -> tuple[DataFile, str]:
    """Write rows to a file that is on the disk when this returns; return it, and its statistics as the log has them.

    In memory is a row group at a time. Each page has a checksum. What `notes` returns after the last row comes into
    the footer. OSError where the disk is full.
    """
    staging = path.staging_file()
    collected: list[pq.FileMetaData] = []
    try:
        with naming(Path(str(path))), CheckedFile(staging) as sink:
            writer = pq.ParquetWriter(
                sink, schema, compression="zstd", write_page_checksum=True, metadata_collector=collected
            )
            try:
                for table in regrouped(tables):
                    writer.write_table(table.cast(schema), row_group_size=ROW_GROUP)
                writer.add_key_value_metadata(dict(notes()))
            except BaseException:
                writer.is_open = False  # it would write on where there is no room
                raise
            writer.close()
        path.publish_file(staging)
    except BaseException:
        staging.unlink(missing_ok=True)
        raise
    file = DataFile(path.name, collected[0].num_rows, sink.size, now(), sink.crc32c)
    return file, statistics(collected[0])


def regrouped(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Yield the rows of tables in tables of `ROW_GROUP` rows, and of what is left at the end."""
    held: list[pa.Table] = []
    rows = 0
    for table in tables:
        held.append(table)
        rows += len(table)
        while rows >= ROW_GROUP:
            whole = pa.concat_tables(held, promote_options="permissive")
            yield whole.slice(0, ROW_GROUP)
            held, rows = [whole.slice(ROW_GROUP)], rows - ROW_GROUP
    if rows:
        yield pa.concat_tables(held, promote_options="permissive")


def check_bytes(path: StorePath, source: Source, expected: int) -> None:
    """Compare a file's CRC-32C; `source` is that of its path.

    Raises:
        ValueError: it is another one.
    """
    found = 0
    if isinstance(source, str):
        with Path(source).open("rb", buffering=0) as file:
            while chunk := file.read(READ_AT_ONCE):
                found = crc32c.crc32c(chunk, found)
    else:
        found = crc32c.crc32c(source.read_buffer())
        source.seek(0)
    if found != expected:
        raise ValueError(f"{path}: expected CRC-32C {expected:08x}, found {found:08x}: restore the file from a backup")


class CheckedFile(io.RawIOBase):
    """A new file that knows the size and the CRC-32C of what was written to it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.size = 0
        self.crc32c = 0
        self._file = path.open("wb", buffering=0)

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.size

    def write(self, data: object) -> int:
        view = memoryview(data).cast("B")  # type: ignore[arg-type]
        written = 0
        while written < len(view):
            written += self._file.write(view[written:])
        self.crc32c = crc32c.crc32c(bytes(view), self.crc32c)
        self.size += len(view)
        return len(view)

    def close(self) -> None:
        self._file.close()
        super().close()
