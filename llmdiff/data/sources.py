"""Where rows come from: Parquet shards and imagefolders, each cut into shards that name their own content."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from llmdiff.data.images import BadRow

IMAGE_COLUMNS = ("image", "img", "picture", "file_name", "image_path", "path")
CAPTION_COLUMNS = ("caption", "text", "prompt")
METADATA_FILES = ("metadata.jsonl", "metadata.csv")
ROWS_PER_SHARD = 4096
"""Rows of an imagefolder that make one shard, the unit of retry and of commit."""


class Row(NamedTuple):
    """One sample: its place in the shard, the encoded picture and the caption."""

    row: int
    image: bytes
    caption: str


class SourceShard(Protocol):
    """A piece of the data that is encoded, retried and committed as one."""

    @property
    def name(self) -> str:
        """What people call it: a file, and rows where the file has several shards."""

    @property
    def content_hash(self) -> str:
        """Of every byte the rows depend on, so that a changed shard is read again and a moved one is not."""

    @property
    def count(self) -> int:
        """How many rows it has, bad ones included."""

    def rows(self) -> Iterator[tuple[int, Row | BadRow]]:
        """Every row with its number, from 0 within the file: usable, or why not."""


def open_source(path: str | Path) -> list[SourceShard]:
    """The shards of a Parquet file, a folder of them, or an imagefolder, in the order of their names.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ValueError: it holds none of these formats.
    """
    root = Path(path)
    if not root.exists():
        raise FileNotFoundError(f"{root}: no such file or folder; expected Parquet shards or an imagefolder")
    if root.is_file():
        return _open_file(root, root.name)
    files = sorted(
        path
        for path in root.rglob("*")
        if (path.suffix == ".parquet" or path.name in METADATA_FILES) and not path.is_dir()
    )
    if not files:
        raise ValueError(f"{root}: expected *.parquet or one of {', '.join(METADATA_FILES)}, found neither")
    return [shard for file in files for shard in _open_file(file, file.relative_to(root).as_posix())]


def _open_file(file: Path, name: str) -> list[SourceShard]:
    if file.suffix == ".parquet":
        return [ParquetShard(file, name)]
    if file.name in METADATA_FILES:
        return list(image_folder(file, name))
    raise ValueError(f"{file}: expected a .parquet file or one of {', '.join(METADATA_FILES)}")


@dataclass(frozen=True)
class ParquetShard:
    """A Parquet file whose picture column is Hugging Face's struct of bytes and path, plain bytes, or a path."""

    file: Path
    name: str
    batch_rows: int = 64

    @cached_property
    def content_hash(self) -> str:
        with self.file.open("rb") as data:
            of_file = hashlib.file_digest(data, "sha256").hexdigest()
        with self._open() as table:
            image = self._column(table, IMAGE_COLUMNS)
            by_path = pa.types.is_string(table.schema_arrow.field(image).type)
        return _hash_rows(self.rows()) if by_path else of_file

    @cached_property
    def count(self) -> int:
        with self._open() as table:
            return int(table.metadata.num_rows)

    def rows(self) -> Iterator[tuple[int, Row | BadRow]]:
        """ValueError where the file is not Parquet or has no picture and caption columns; see `SourceShard`."""
        with self._open() as table:
            image, caption = self._column(table, IMAGE_COLUMNS), self._column(table, CAPTION_COLUMNS)
            number = 0
            for batch in self._batches(table, [image, caption]):
                for values in batch.to_pylist():
                    yield number, checked(number, values[image], values[caption], self.file.parent)
                    number += 1

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

    def _column(self, table: pq.ParquetFile, known: tuple[str, ...]) -> str:
        names = table.schema_arrow.names
        for name in known:
            if name in names:
                return name
        raise ValueError(f"{self.file}: expected a column named {' or '.join(known)}, found {', '.join(names)}")


@dataclass(frozen=True)
class ImageFolderShard:
    """Some rows of a ``metadata.jsonl`` or ``metadata.csv``, with the pictures they name."""

    folder: Path
    name: str
    first: int
    records: tuple[dict[str, Any] | BadRow, ...] = field(repr=False)

    @cached_property
    def content_hash(self) -> str:
        return _hash_rows(self.rows())

    @property
    def count(self) -> int:
        return len(self.records)

    def rows(self) -> Iterator[tuple[int, Row | BadRow]]:
        """See `SourceShard`."""
        for number, record in enumerate(self.records, self.first):
            if isinstance(record, BadRow):
                yield number, record
            else:
                image, caption = (_first(record, names) for names in (IMAGE_COLUMNS, CAPTION_COLUMNS))
                yield number, checked(number, image, caption, self.folder)


def image_folder(metadata: Path, name: str, rows_per_shard: int = ROWS_PER_SHARD) -> Iterator[ImageFolderShard]:
    """Cuts a metadata file into shards of `rows_per_shard` rows; ValueError where it is not text."""
    records = _READERS[metadata.suffix](metadata)
    for first in range(0, len(records), rows_per_shard):
        part = tuple(records[first : first + rows_per_shard])
        rows = f"[{first}:{first + len(part)}]" if len(records) > rows_per_shard else ""
        yield ImageFolderShard(metadata.parent, name + rows, first, part)


def _read_jsonl(file: Path) -> list[dict[str, Any] | BadRow]:
    lines = read_text(file).split("\n")  # splitlines would also cut at U+2028 inside a caption
    return [_record(line) for line in lines if line.strip()]


def _record(line: str) -> dict[str, Any] | BadRow:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        return BadRow("broken_metadata", f"expected a JSON object, found {line[:80]!r}: {error}")
    if not isinstance(record, dict):
        return BadRow("broken_metadata", f"expected a JSON object, found {line[:80]!r}")
    return record


def _read_csv(file: Path) -> list[dict[str, Any] | BadRow]:
    try:
        return list(csv.DictReader(io.StringIO(read_text(file), newline="")))
    except csv.Error as error:
        raise ValueError(f"{file}: expected comma-separated values: {error}") from error


_READERS: dict[str, Callable[[Path], list[dict[str, Any] | BadRow]]] = {".jsonl": _read_jsonl, ".csv": _read_csv}


def checked(number: int, image: Any, caption: Any, folder: Path) -> Row | BadRow:
    """A row whose picture's bytes are at hand and whose caption says something, or the reason why it is not one."""
    try:
        return Row(number, _image_bytes(image, folder), _caption(caption))
    except BadRow as bad:
        return bad


def _caption(value: Any) -> str:
    if not isinstance(value, str):
        raise BadRow("no_caption", f"expected text, found {type(value).__name__}")
    if not value.strip():
        raise BadRow("empty_caption", f"expected text, found {value!r}")
    return value


def _image_bytes(value: Any, folder: Path) -> bytes:
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes) and value:
        return value
    if isinstance(value, str) and value:
        return _read_inside(folder, value)
    raise BadRow("no_image", f"expected a picture's bytes or path, found {value!r}")


def _read_inside(folder: Path, name: str) -> bytes:
    """The file's bytes; never of a file outside the data's own folder, whatever the metadata says."""
    file = (folder / name).resolve()
    if not file.is_relative_to(folder.resolve()):
        raise BadRow("outside_folder", f"expected a file below {folder}, found {name!r}")
    try:
        return file.read_bytes()
    except OSError as error:
        raise BadRow("no_image", f"{name}: {error.strerror}") from error


def read_text(file: Path) -> str:
    """A UTF-8 file's text, its line ends as they are; ValueError naming the line where it is something else."""
    data = file.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        found = f"byte 0x{error.object[error.start]:02x}"
        raise ValueError(f"{file}: line {line}: expected UTF-8 text, found {found}") from error


def _hash_rows(rows: Iterator[tuple[int, Row | BadRow]]) -> str:
    digest = hashlib.sha256()
    for number, row in rows:
        parts = (row.reason, row.detail) if isinstance(row, BadRow) else (row.image, row.caption)
        for part in (str(number), *parts):
            data = part if isinstance(part, bytes) else part.encode()
            digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


def _first(record: dict[str, Any], names: tuple[str, ...]) -> Any:
    return next((record[name] for name in names if record.get(name) is not None), None)
