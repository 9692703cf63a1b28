"""Text files of rows: JSON lines and comma- or tab-separated values, with pictures beside them or captions alone."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from llmdiff.data.rejects import BadRow
from llmdiff.data.sources.rows import (
    CAPTION_COLUMNS,
    IMAGE_COLUMNS,
    Pair,
    Row,
    UnreadableShard,
    caption_column,
    checked,
    column,
    hash_rows,
    pairs,
    text,
)

METADATA_FILES = ("metadata.jsonl", "metadata.csv")
"""Of an imagefolder: their rows name pictures."""
ROWS_PER_SHARD = 4096
"""Rows that make one shard, the unit of retry and of commit."""

Record = dict[str, Any] | BadRow
"""A row by column, their names in lower case; or why it is none."""


@dataclass(frozen=True)
class TableShard:
    """Some rows of a text file, with the pictures they name."""

    folder: Path
    name: str
    has_pictures: bool
    pairs: tuple[Pair, ...] = field(repr=False)

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
    for first in range(0, len(found), rows_per_shard):
        part = tuple(found[first : first + rows_per_shard])
        rows = f"[{first}:{first + len(part)}]" if len(found) > rows_per_shard else ""
        yield TableShard(file.parent, name + rows, has_pictures, part)


def read_records(file: Path) -> list[Record]:
    """Every row of a .jsonl, .csv, .tsv or .txt file; lines that hold nothing are no rows. ValueError if unreadable."""
    return _READERS[file.suffix.lower()](file)


def _has_pictures(file: Path, records: list[Record]) -> bool:
    """Whether any row names a picture; ValueError where none has a caption's column."""
    names = list(dict.fromkeys(name for record in records if isinstance(record, dict) for name in record))
    if names:
        caption_column(file, names)
    return file.name in METADATA_FILES or column(names, IMAGE_COLUMNS) is not None


def _cells(record: Record) -> tuple[Any, Any]:
    """A row's picture and caption."""
    if isinstance(record, BadRow):
        return record, record
    image, caption = (
        next((record[name] for name in known if record.get(name) is not None), None)
        for known in (IMAGE_COLUMNS, CAPTION_COLUMNS)
    )
    return image, caption


def _read_jsonl(file: Path) -> list[Record]:
    return [_from_json(line) for line in _lines(file)]


def _read_txt(file: Path) -> list[Record]:
    return [_from_line(line) for line in _lines(file)]


def _read_csv(file: Path, **dialect: Any) -> list[Record]:
    content = _read(file).decode("utf-8", "surrogateescape").removeprefix("\ufeff")
    try:
        return [_from_csv(values) for values in csv.DictReader(io.StringIO(content, newline=""), **dialect)]
    except csv.Error as error:
        raise ValueError(f"{file}: expected separated values: {error}") from error


def _read_tsv(file: Path) -> list[Record]:
    return _read_csv(file, delimiter="\t", quoting=csv.QUOTE_NONE)  # a quotation mark is one of the caption's own


_READERS: dict[str, Callable[[Path], list[Record]]] = {
    ".jsonl": _read_jsonl,
    ".txt": _read_txt,
    ".csv": _read_csv,
    ".tsv": _read_tsv,
}


def _from_json(line: bytes) -> Record:
    try:
        return json_record(line)
    except BadRow as bad:
        return bad


def json_record(data: bytes) -> dict[str, Any]:
    """A JSON object by lower-case names; BadRow where it is none."""
    try:
        record = json.loads(text(data))
    except BadRow:
        raise
    except (ValueError, RecursionError) as error:
        raise BadRow("broken_metadata", f"expected a JSON object, found {data!r:.80}: {error}") from error
    if not isinstance(record, dict):
        raise BadRow("broken_metadata", f"expected a JSON object, found {data!r:.80}")
    return {name.lower(): value for name, value in record.items()}


def _from_line(line: bytes) -> Record:
    try:
        return {"caption": text(line).strip()}
    except BadRow as bad:
        return bad


def _from_csv(values: dict[Any, Any]) -> Record:
    extra = values.pop(None, [])
    if any(extra):
        found = len(values) + len(extra)
        return BadRow("broken_metadata", f"expected {len(values)} values, found {found}; is a separator not in quotes?")
    try:
        return {name.strip().lower(): _cell(value) for name, value in values.items()}
    except BadRow as bad:
        return bad


def _cell(value: str | None) -> str | None:
    """A cell of a file that was read with ``surrogateescape``; BadRow where its bytes are not UTF-8."""
    return None if value is None else text(value.encode("utf-8", "surrogateescape"))


def _lines(file: Path) -> Iterator[bytes]:
    """Those that hold something. Cut as bytes, for `str.splitlines` would also cut at U+2028 inside a caption."""
    return (line for line in _read(file).split(b"\n") if line.strip())


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise ValueError(f"{file}: {error.strerror}") from error


def read_text(file: Path) -> str:
    """A UTF-8 file's text, its line ends as they are; ValueError naming the line where it is something else."""
    data = file.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        found = f"byte 0x{error.object[error.start]:02x}"
        raise ValueError(f"{file}: line {line}: expected UTF-8 text, found {found}") from error
