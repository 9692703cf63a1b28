"""Parquet files."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from llmdiff.cached import cached_attribute
from llmdiff.data.sources.columnar import ColumnarShard
from llmdiff.data.sources.opening import arrow_source


class Footer(NamedTuple):
    """What a file's end says of it."""

    schema: pa.Schema
    rows: int
    without_bytes: dict[str, int | None]
    """Nulls in each column of a struct's ``bytes``, by its path; None where no statistics say it."""


class ParquetShard(ColumnarShard):
    """A Parquet file; see `ColumnarShard`."""

    @property
    def schema(self) -> pa.Schema:
        return self._footer.schema

    @property
    def row_count(self) -> int:
        return self._footer.rows

    @cached_attribute
    def _footer(self) -> Footer:
        with self._open() as table:
            return Footer(table.schema_arrow, int(table.metadata.num_rows), _without_bytes(table.metadata))

    def batches(self, columns: list[str]) -> Iterator[pa.RecordBatch]:
        with self._open() as table:
            try:
                yield from table.iter_batches(self.batch_rows, columns=columns)
            except ConnectionError:
                raise
            except (pa.ArrowException, OSError) as error:
                raise ValueError(f"{self.file}: damaged Parquet file: {error}") from error

    def has_pictures_elsewhere(self, image: str) -> bool:
        """See `ColumnarShard`; the file's statistics say it, where they are there, without a look at the pictures."""
        nulls = self._footer.without_bytes.get(f"{image}.bytes", 0)
        return super().has_pictures_elsewhere(image) if nulls is None else nulls > 0

    def _open(self) -> pq.ParquetFile:
        try:
            return pq.ParquetFile(arrow_source(self.file))
        except ConnectionError:
            raise
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{self.file}: expected a Parquet file, found none: {error}") from error


def _without_bytes(metadata: pq.FileMetaData) -> dict[str, int | None]:
    found: dict[str, int | None] = {}
    groups = map(metadata.row_group, range(metadata.num_row_groups))
    for column in (group.column(i) for group in groups for i in range(group.num_columns)):
        if (path := column.path_in_schema).endswith(".bytes"):
            said, before = column.statistics, found.get(path, 0)
            known = said is not None and said.has_null_count and before is not None
            found[path] = before + said.null_count if known else None
    return found
