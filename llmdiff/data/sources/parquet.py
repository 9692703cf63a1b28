"""Parquet shards: pictures as Hugging Face's struct, bytes, paths or URLs, with captions; or captions alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from llmdiff.data.rejects import BadRow
from llmdiff.data.sources.rows import (
    IMAGE_COLUMNS,
    URL_COLUMNS,
    Row,
    caption_column,
    checked,
    column,
    hash_file,
    hash_rows,
    pairs,
)


@dataclass(frozen=True)
class ParquetShard:
    """A Parquet file; its captions are text, or lists of text."""

    file: Path
    name: str
    batch_rows: int = 64

    @cached_property
    def content_hash(self) -> str:
        with self._open() as table:
            image, _ = self._columns(table)
            by_path = image is not None and _is_path(table.schema_arrow.field(image))
        return hash_rows(self.rows()) if by_path else hash_file(self.file)

    @cached_property
    def count(self) -> int:
        with self._open() as table:
            _, caption = self._columns(table)
            if not _is_list(table.schema_arrow.field(caption).type):
                return int(table.metadata.num_rows)
            return sum(_count_pairs(batch.column(0)) for batch in self._batches(table, [caption]))

    @cached_property
    def has_pictures(self) -> bool:
        with self._open() as table:
            return self._columns(table)[0] is not None

    def rows(self) -> Iterator[tuple[int, Row | BadRow]]:
        """ValueError where the file is not Parquet, is damaged or has no caption column; see `SourceShard`."""
        with self._open() as table:
            image, caption = self._columns(table)
            for pair in pairs(self._records(table, image, caption)):
                yield pair.number, checked(pair, self.file.parent, image is not None)

    def _records(self, table: pq.ParquetFile, image: str | None, caption: str) -> Iterator[tuple[Any, Any]]:
        for batch in self._batches(table, [caption] if image is None else [image, caption]):
            for i in range(len(batch)):
                yield None if image is None else _value(batch[image][i]), _value(batch[caption][i])

    def _open(self) -> pq.ParquetFile:
        try:
            return pq.ParquetFile(self.file)
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{self.file}: expected a Parquet file, found none: {error}") from error

    def _batches(self, table: pq.ParquetFile, columns: list[str]) -> Iterator[pa.RecordBatch]:
        try:
            yield from table.iter_batches(self.batch_rows, columns=columns)
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{self.file}: damaged Parquet file: {error}") from error

    def _columns(self, table: pq.ParquetFile) -> tuple[str | None, str]:
        """The pictures' column, None where there is none, and the captions'."""
        names = table.schema_arrow.names
        return column(names, IMAGE_COLUMNS), caption_column(self.file, names)


def _value(scalar: pa.Scalar) -> Any:
    """A cell's value, of a list each; Arrow does not check what it calls a string, so one may be no UTF-8."""
    if _is_list(scalar.type) and scalar.is_valid:
        return [_value(item) for item in scalar.values]
    try:
        return scalar.as_py()
    except UnicodeDecodeError as error:
        return BadRow("not_utf8", f"expected UTF-8 text, found {error.object!r:.80}")


def _count_pairs(captions: pa.Array) -> int:
    lengths = pc.fill_null(pc.list_value_length(captions), 0)
    return int(pc.sum(pc.max_element_wise(lengths, 1)).as_py() or 0)


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _is_path(field: pa.Field) -> bool:
    """Whether a column names files, which are then part of the content."""
    kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    return bool(is_text) and field.name.strip().lower() not in URL_COLUMNS
