"""Parquet files."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import pyarrow as pa
import pyarrow.parquet as pq

from llmdiff.data.sources.columnar import ColumnarShard


class ParquetShard(ColumnarShard):
    """A Parquet file; see `ColumnarShard`."""

    @cached_property
    def schema(self) -> pa.Schema:
        with self._open() as table:
            return table.schema_arrow

    @cached_property
    def row_count(self) -> int:
        with self._open() as table:
            return int(table.metadata.num_rows)

    def batches(self, columns: list[str]) -> Iterator[pa.RecordBatch]:
        with self._open() as table:
            try:
                yield from table.iter_batches(self.batch_rows, columns=columns)
            except (pa.ArrowException, OSError) as error:
                raise ValueError(f"{self.file}: damaged Parquet file: {error}") from error

    def _open(self) -> pq.ParquetFile:
        try:
            return pq.ParquetFile(self.file)
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{self.file}: expected a Parquet file, found none: {error}") from error
