"""Parquet files."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import pyarrow as pa
import pyarrow.parquet as pq

from llmdiff.data.sources.columnar import ColumnarShard
from llmdiff.data.sources.opening import arrow_source


class ParquetShard(ColumnarShard):
    """A Parquet file; see `ColumnarShard`."""

    @property
    def schema(self) -> pa.Schema:
        return self._footer[0]

    @property
    def row_count(self) -> int:
        return self._footer[1]

    @cached_property
    def _footer(self) -> tuple[pa.Schema, int]:
        """Of the file's end: its columns, and how many rows it has."""
        with self._open() as table:
            return table.schema_arrow, int(table.metadata.num_rows)

    def batches(self, columns: list[str]) -> Iterator[pa.RecordBatch]:
        with self._open() as table:
            try:
                yield from table.iter_batches(self.batch_rows, columns=columns)
            except ConnectionError:
                raise
            except (pa.ArrowException, OSError) as error:
                raise ValueError(f"{self.file}: damaged Parquet file: {error}") from error

    def _open(self) -> pq.ParquetFile:
        try:
            return pq.ParquetFile(arrow_source(self.file))
        except ConnectionError:
            raise
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{self.file}: expected a Parquet file, found none: {error}") from error
