"""Shards of text files of rows, with pictures beside them or captions alone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from llmdiff.cached import cached_attribute
from llmdiff.data.rejects import BadRow, printable
from llmdiff.data.remote import DataPath, RemotePath
from llmdiff.data.remote.parallel import each
from llmdiff.data.sources.columns import KNOWN, Columns
from llmdiff.data.sources.file_names import is_url
from llmdiff.data.sources.json_cells import Record
from llmdiff.data.sources.kinds import METADATA_FILES, PICTURES, kind_of
from llmdiff.data.sources.remote_pictures import Named, hash_below
from llmdiff.data.sources.rows import CAPTION_COLUMNS, Pair, Row, UnreadableShard, checked, column, hash_rows, pairs
from llmdiff.data.sources.tables.records import SNIFFED, names_in, read_records
from llmdiff.data.sources.tables.separated import list_in

ROWS_PER_SHARD = 4096
"""Rows that make one shard, the unit of retry and of commit."""
SEPARATOR = re.compile(r"[,;|\t]")
PICTURE = re.compile(rf".*\.({'|'.join(PICTURES)})(#\d+)?\s*", re.IGNORECASE | re.DOTALL)
"""Pattern of a picture's name, which the number of one of its captions may follow."""


@dataclass(frozen=True)
class TableShard:
    """Some rows of a text file, with the pictures they name."""

    folder: DataPath
    name: str
    has_pictures: bool
    pairs: tuple[Pair, ...] = field(repr=False)
    unread: tuple[str, ...] = ()
    columns_read: tuple[str, ...] = ()
    listed_hash: str | None = None
    """Hash of the rows and of what a listing says of their pictures; None where only bytes identify the pictures."""

    @cached_attribute
    def content_hash(self) -> str:
        return self.listed_hash or hash_rows(self.rows())

    @property
    def count(self) -> int:
        return len(self.pairs)

    def rows(self) -> Iterator[tuple[int, Row | BadRow]]:
        """See `SourceShard`."""

        def row(pair: Pair) -> tuple[int, Row | BadRow]:
            return pair.number, checked(pair, self.folder, self.has_pictures)

        return each(row, self.pairs, remote=isinstance(self.folder, RemotePath) and self.has_pictures)

    def named_pictures(self) -> Iterator[str]:
        """Yield the paths of pictures that the rows give."""
        images = (pair.image.get("path") if isinstance(pair.image, dict) else pair.image for pair in self.pairs)
        yield from (image for image in images if isinstance(image, str))


def table_shards(
    file: DataPath, name: str, columns: Columns = KNOWN, rows_per_shard: int = ROWS_PER_SHARD
) -> Iterator[TableShard | UnreadableShard]:
    """Cut a file into shards of `rows_per_shard` rows; an unreadable one is a single shard that says so."""
    is_lines = kind_of(file).startswith(".txt")
    columns = KNOWN if is_lines else columns  # lines have no columns
    try:
        records = read_records(file)
        if is_lines:
            _check_captions(file, records)
        images, captions = _chosen(file, records, columns)
    except ValueError as error:
        yield UnreadableShard(name, printable(str(error)))
        return
    is_separated = kind_of(file).startswith((".csv", ".tsv"))
    found = list(pairs(_cells(record, images, captions, columns, is_separated) for record in records))
    has_pictures = bool(found) and (bool(images) or file.name in METADATA_FILES)
    read, unread = _used_columns(records, (*images, *captions))
    read = () if is_lines else read
    for first in range(0, max(1, len(found)), rows_per_shard):
        part = tuple(found[first : first + rows_per_shard])
        rows = f"[{first}:{first + len(part)}]" if len(found) > rows_per_shard else ""
        listed = _listed_hash(file.parent, part) if isinstance(file, RemotePath) and has_pictures else None
        yield TableShard(file.parent, name + rows, has_pictures, part, unread, read, listed)


def _check_captions(file: DataPath, records: list[Record]) -> None:
    """Raise ValueError where lines are no captions but rows of values: names of pictures, or names of columns first."""
    lines = [record["caption"] for record in records[:SNIFFED] if isinstance(record, dict)]
    rows = [SEPARATOR.split(line) for line in lines]
    if rows and all(any(map(PICTURE.fullmatch, row)) for row in rows[1:] or rows):
        found = f"names of pictures: {lines[-1]!r:.80}"
    elif rows and min(map(len, rows)) > 1 and column(rows[0], CAPTION_COLUMNS) is not None:
        found = f"a table: {lines[0]!r:.80}"
    else:
        return
    expected = f"{file}: expected a caption a line, found {found}"
    raise ValueError(
        f"{expected}; call it .csv or .tsv, and let its first line name the columns: file_name and caption"
    )


def _chosen(file: DataPath, records: list[Record], columns: Columns) -> tuple[list[str], list[str]]:
    """Return the columns that may hold a row's picture and its captions.

    Raise ValueError where none has captions, or two may have them and neither is named.
    """
    names = names_in(records)
    if not names:
        return [], []
    images, captions = columns.images(file, names), columns.texts(file, names)
    for i, record in enumerate(records):
        if isinstance(record, dict):
            columns.check_row(f"{file}, row {i}", record)
    return images, captions


def _listed_hash(folder: RemotePath, part: tuple[Pair, ...]) -> str | None:
    """Return a hash of rows, with what a listing says of the pictures that they name."""
    return hash_below(
        folder,
        (
            Named(value) if isinstance(value, str) and value and not is_url(value) and i == 0 else value
            for pair in part
            for i, value in enumerate((pair.image, pair.caption, pair.number))
        ),
    )


def _used_columns(records: list[Record], chosen: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the columns that are not empty: first those that rows are made of, then the others."""
    names = dict.fromkeys(name for record in records if isinstance(record, dict) for name, v in record.items() if v)
    others = (name or "a column without a name" for name in names if name not in chosen)
    return tuple(name for name in chosen if name in names), tuple(others)


def _cells(
    record: Record, images: list[str], captions: list[str], columns: Columns, is_separated: bool
) -> tuple[Any, Any]:
    """Return a row's picture and caption; in separated values, a cell may hold a list of captions as text."""
    if isinstance(record, BadRow):
        return record, record
    filled = (record[name] for name in images if record.get(name) not in (None, ""))
    picture = next(filled, None)
    values = [record.get(name) for name in captions]
    return picture, columns.caption_of([list_in(value) for value in values] if is_separated else values)
