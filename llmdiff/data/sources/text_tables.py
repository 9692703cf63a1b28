"""Text files of rows: with pictures beside them, or captions alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from llmdiff.data.rejects import BadRow
from llmdiff.data.sources.kinds import METADATA_FILES
from llmdiff.data.sources.records import Record, names_in, read_records
from llmdiff.data.sources.rows import (
    CAPTION_COLUMNS,
    IMAGE_COLUMNS,
    Pair,
    Row,
    UnreadableShard,
    caption_column,
    checked,
    column,
    first_cell,
    hash_rows,
    pairs,
)

ROWS_PER_SHARD = 4096
"""Rows that make one shard, the unit of retry and of commit."""


@dataclass(frozen=True)
class TableShard:
    """Some rows of a text file, with the pictures they name."""

    folder: Path
    name: str
    has_pictures: bool
    pairs: tuple[Pair, ...] = field(repr=False)
    unread: tuple[str, ...] = ()
    columns: tuple[str | None, str | None] = (None, None)
    """The pictures' column and the captions', where there are columns."""

    @cached_property
    def content_hash(self) -> str:
        return hash_rows(self.rows())

    @property
    def count(self) -> int:
        return len(self.pairs)

    def rows(self) -> Iterator[tuple[int, Row | BadRow]]:
        """See `SourceShard`."""
        for pair in self.pairs:
            yield pair.number, checked(pair, self.folder, self.has_pictures)


def table_shards(file: Path, name: str, rows_per_shard: int = ROWS_PER_SHARD) -> Iterator[TableShard | UnreadableShard]:
    """Cuts a file into shards of `rows_per_shard` rows; an unreadable one is a single shard that says so."""
    try:
        records = read_records(file)
        has_pictures = _has_pictures(file, records)
    except ValueError as error:
        yield UnreadableShard(name, str(error))
        return
    found = list(pairs(map(_cells, records)))
    columns, unread = _columns(records)
    for first in range(0, len(found), rows_per_shard):
        part = tuple(found[first : first + rows_per_shard])
        rows = f"[{first}:{first + len(part)}]" if len(found) > rows_per_shard else ""
        yield TableShard(file.parent, name + rows, has_pictures, part, unread, columns)


def _columns(records: list[Record]) -> tuple[tuple[str | None, str | None], tuple[str, ...]]:
    """The pictures' column and the captions', and columns that hold something and that no row is made of."""
    names = dict.fromkeys(name for record in records if isinstance(record, dict) for name, v in record.items() if v)
    image, caption = column(names, IMAGE_COLUMNS), column(names, CAPTION_COLUMNS)
    return (image, caption), tuple(name for name in names if name not in (image, caption))


def _has_pictures(file: Path, records: list[Record]) -> bool:
    """Whether any row names a picture; ValueError where none has a caption's column."""
    names = names_in(records)
    if names:
        caption_column(file, names)
    return file.name in METADATA_FILES or column(names, IMAGE_COLUMNS) is not None


def _cells(record: Record) -> tuple[Any, Any]:
    """A row's picture and caption."""
    if isinstance(record, BadRow):
        return record, record
    return first_cell(record, IMAGE_COLUMNS), first_cell(record, CAPTION_COLUMNS)
