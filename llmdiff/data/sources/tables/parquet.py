"""Parquet files."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from llmdiff.cached import cached_attribute
from llmdiff.data.sources.limits import most_rows
from llmdiff.data.sources.opening import arrow_source, size_of
from llmdiff.data.sources.tables.columnar import ColumnarShard


class ParquetShard(ColumnarShard):
    """A Parquet file; see `ColumnarShard`."""

    @property
    def schema(self) -> pa.Schema:
        return self._footer[0]

    @property
    def row_count(self) -> int:
        return int(self._footer[1].num_rows)

    @cached_attribute
    def _footer(self) -> tuple[pa.Schema, pq.FileMetaData]:
        """Return the file's schema and the other metadata of its footer."""
        with self._open() as table:
            rows, most = table.metadata.num_rows, most_rows(size_of(self.file))
            if not 0 <= rows <= most:
                raise ValueError(f"{self.file}: expected at most {most} rows in a file of its size, found {rows}")
            return table.schema_arrow, table.metadata

    def batches(self, columns: list[str]) -> Iterator[pa.RecordBatch]:
        with self._open() as table:
            try:
                yield from table.iter_batches(self.batch_rows, columns=columns)
            except ConnectionError:
                raise
            except (pa.ArrowException, OSError) as error:
                raise ValueError(f"{self.file}: damaged Parquet file: {error}") from error

    def has_pictures_elsewhere(self, image: str) -> bool:
        """See `ColumnarShard`; the file's statistics tell it, where there are any, without reading pictures."""
        metadata = self._footer[1]
        groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
        columns = [group.column(i) for group in groups for i in range(group.num_columns)]
        found = [column.statistics for column in columns if column.path_in_schema == f"{image}.bytes"]
        if found and all(each is not None and each.has_null_count for each in found):
            return any(each.null_count for each in found)
        return super().has_pictures_elsewhere(image)

    def _open(self) -> pq.ParquetFile:
        try:
            return pq.ParquetFile(arrow_source(self.file))
        except ConnectionError:
            raise
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{self.file}: expected a Parquet file, found none: {error}") from error
