"""Shards of columns, Parquet and Arrow: pictures as Hugging Face's struct, bytes, paths or URLs; or captions alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

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
class ColumnarShard(ABC):
    """A file of columns; its captions are text, or lists of text."""

    file: Path
    name: str
    batch_rows: int = 64

    @property
    @abstractmethod
    def schema(self) -> pa.Schema:
        """The file's columns; ValueError where it is not of its kind."""

    @property
    @abstractmethod
    def row_count(self) -> int:
        """How many rows the file has."""

    @abstractmethod
    def batches(self, columns: list[str]) -> Iterator[pa.RecordBatch]:
        """Rows, few at a time; ValueError where the file is damaged."""

    def has_pictures_elsewhere(self, image: str) -> bool:
        """Return whether a column of Hugging Face's structs may leave the bytes of a picture to the file it names."""
        if not _is_bytes_or_path(self.schema.field(image).type):
            return False
        return any(batch.column(0).field("bytes").null_count for batch in self.batches([image]))

    @cached_property
    def content_hash(self) -> str:
        image, _ = self._columns
        by_path = image is not None and (_is_path(self.schema.field(image)) or self.has_pictures_elsewhere(image))
        return hash_rows(self.rows()) if by_path else hash_file(self.file)

    @cached_property
    def count(self) -> int:
        _, caption = self._columns
        if not _is_list(self.schema.field(caption).type):
            return self.row_count
        return sum(_count_pairs(batch.column(0)) for batch in self.batches([caption]))

    @cached_property
    def has_pictures(self) -> bool:
        return self._columns[0] is not None

    @cached_property
    def unread(self) -> tuple[str, ...]:
        return tuple(name for name in self.schema.names if name not in self._columns)

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(name for name in self._columns if name is not None)

    def named_pictures(self) -> Iterator[str]:
        """Yield the paths that the pictures' column gives; ValueError as `rows`."""
        image, _ = self._columns
        if image is not None and _is_path(self.schema.field(image)):
            for batch in self.batches([image]):
                yield from (name for name in map(_value, batch.column(0)) if isinstance(name, str))

    def rows(self) -> Iterator[tuple[int, Row | BadRow]]:
        """ValueError where the file is not of its kind, is damaged or has no caption column; see `SourceShard`."""
        image, caption = self._columns
        for pair in pairs(self._records(image, caption)):
            yield pair.number, checked(pair, self.file.parent, image is not None)

    def _records(self, image: str | None, caption: str) -> Iterator[tuple[Any, Any]]:
        for batch in self.batches([caption] if image is None else [image, caption]):
            for i in range(len(batch)):
                yield None if image is None else _value(batch[image][i]), _value(batch[caption][i])

    @cached_property
    def _columns(self) -> tuple[str | None, str]:
        names = self.schema.names
        found = column(names, IMAGE_COLUMNS), caption_column(self.file, names)
        if twice := next((name for name in found if names.count(name) > 1), None):
            raise ValueError(f"{self.file}: expected one column named {twice}, found {names.count(twice)}")
        return found


def text_columns(shard: ColumnarShard) -> list[str]:
    """Names of the columns of text; ValueError where the file is not of its kind."""
    return [field.name for field in shard.schema if _is_text(field.type)]


def _value(scalar: pa.Scalar) -> Any:
    """A cell's value, of a list each; Arrow does not check what it calls a string, so one may be no UTF-8."""
    if _is_list(scalar.type) and scalar.is_valid:
        return [_value(item) for item in scalar.values]
    try:
        found = scalar.as_py()
        return tuple(found) if isinstance(found, list) else found  # of a map, say: one caption, which is no text
    except UnicodeDecodeError as error:
        return BadRow("not_utf8", f"expected UTF-8 text, found {error.object!r:.80}")


def _count_pairs(captions: pa.Array) -> int:
    lengths = pc.fill_null(pc.list_value_length(captions), 0)
    return int(pc.sum(pc.max_element_wise(lengths, 1)).as_py() or 0)


def _is_list(kind: pa.DataType) -> bool:
    views = pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind)
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind) or views)


def _is_path(field: pa.Field) -> bool:
    """Whether a column names files, which are then part of the content."""
    return _is_text(field.type) and field.name.strip().lower() not in URL_COLUMNS


def _is_bytes_or_path(kind: pa.DataType) -> bool:
    """Whether a column is of Hugging Face's struct."""
    return bool(pa.types.is_struct(kind)) and {"bytes", "path"} <= {field.name for field in kind}


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))
