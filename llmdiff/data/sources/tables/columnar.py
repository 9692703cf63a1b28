"""Shards of columns, Parquet and Arrow: pictures as Hugging Face's struct, bytes, paths or URLs; or captions alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from llmdiff.cached import cached_attribute
from llmdiff.data.rejects import BadRow
from llmdiff.data.remote import DataPath, RemotePath
from llmdiff.data.remote.parallel import each
from llmdiff.data.sources.columns import KNOWN, Columns
from llmdiff.data.sources.limits import MAX_BYTES
from llmdiff.data.sources.remote_pictures import Named, hash_below
from llmdiff.data.sources.rows import URL_COLUMNS, Pair, Row, checked, hash_file, hash_rows, pairs
from llmdiff.data.sources.tars.img2dataset import STATUS_COLUMNS, why_failed


@dataclass(frozen=True)
class ColumnarShard(ABC):
    """A file of columns; its captions are text, or lists of text."""

    file: DataPath
    name: str
    columns: Columns = KNOWN
    batch_rows: int = 1
    """Rows that are read at a time: a file of kilobytes may hold cells of gigabytes, each of them packed."""

    @property
    @abstractmethod
    def schema(self) -> pa.Schema:
        """The file's columns; ValueError where it is not of its kind."""

    @property
    @abstractmethod
    def row_count(self) -> int:
        """Number of rows in the file."""

    @abstractmethod
    def batches(self, columns: list[str]) -> Iterator[pa.RecordBatch]:
        """Yield rows, few at a time; raise ValueError where the file is damaged."""

    def has_pictures_elsewhere(self, image: str) -> bool:
        """Return whether a column holds Hugging Face's structs of which some name a file and lack its bytes."""
        kind = self.schema.field(image).type
        if not _is_struct_with_path(kind):
            return False
        return kind.get_field_index("bytes") < 0 or any(
            batch.column(0).field("bytes").null_count for batch in self.batches([image])
        )

    @cached_attribute
    def content_hash(self) -> str:
        image, captions = self._chosen
        if image is None or not self._names_pictures(image):
            return self.columns.hashed(hash_file(self.file), image, captions, self.schema.names)
        return (isinstance(self.file, RemotePath) and self._hash_listed(self.file, image)) or hash_rows(self.rows())

    def _hash_listed(self, file: RemotePath, image: str) -> str | None:
        """Return a hash of the file, the chosen columns, and the listed facts of the pictures that it names."""
        of_file = self.columns.hashed(hash_file(file), *self._chosen, self.schema.names)
        names = (path_in(cell) for batch in self.batches([image]) for cell in batch[image])
        named = (Named(name) if isinstance(name, str) else None for name in names)  # other cells are in the file's hash
        return hash_below(file.parent, (of_file, *named))

    @cached_attribute
    def count(self) -> int:
        _, captions = self._chosen
        lists = any(_is_list(self.schema.field(caption).type) for caption in captions)
        if not lists and (len(captions) == 1 or not self.columns.every):
            return self.row_count
        if len(captions) == 1:
            return sum(_count_pairs(batch.column(0)) for batch in self.batches(captions))
        return sum(1 for _ in pairs(self._records(None, captions)))

    @cached_attribute
    def has_pictures(self) -> bool:
        return self._chosen[0] is not None

    @cached_attribute
    def unread(self) -> tuple[str, ...]:
        image, captions = self._chosen
        return tuple(name for name in self.schema.names if name not in (image, *captions))

    @property
    def columns_read(self) -> tuple[str, ...]:
        image, captions = self._chosen
        return tuple(name for name in (image, *captions) if name is not None)

    def named_pictures(self) -> Iterator[str]:
        """Yield the paths that the pictures' column gives; ValueError as `rows`."""
        image, _ = self._chosen
        if image is not None and self._names_pictures(image):
            for batch in self.batches([image]):
                yield from (name for name in map(path_in, batch.column(0)) if isinstance(name, str))

    def _names_pictures(self, image: str) -> bool:
        """Return whether the pictures are files, which are then part of the content."""
        return _is_path(self.schema.field(image)) or self.has_pictures_elsewhere(image)

    def rows(self) -> Iterator[tuple[int, Row | BadRow]]:
        """See `SourceShard`; raise ValueError where the file is damaged, of another kind or without captions."""
        image, captions = self._chosen
        beside = isinstance(self.file, RemotePath) and image is not None and _is_path(self.schema.field(image))

        def row(pair: Pair) -> tuple[int, Row | BadRow]:
            return pair.number, checked(pair, self.file.parent, image is not None)

        return each(row, pairs(self._records(image, captions)), beside)

    def _records(self, image: str | None, captions: list[str]) -> Iterator[tuple[Any, Any]]:
        status = STATUS_COLUMNS if image is not None and {*STATUS_COLUMNS} <= {*self.schema.names} else ()
        for batch in self.batches(list(dict.fromkeys([*filter(None, (image, *captions)), *status]))):
            for i in range(len(batch)):
                caption = self.columns.caption_of([_value(batch[name][i]) for name in captions])
                failed = why_failed({name: _value(batch[name][i]) for name in status}) if status else None
                yield failed if failed is not None or image is None else _value(batch[image][i]), caption

    @cached_attribute
    def _chosen(self) -> tuple[str | None, list[str]]:
        """Return the pictures' column, None where there is none, and the columns of the captions."""
        names = self.schema.names
        image, captions = self.columns.image_in(self.file, names), self.columns.captions_in(self.file, names)
        for chosen in filter(None, (image, *captions)):
            found = [name for name in names if name.strip().lower() == chosen.strip().lower()]
            if len(found) > 1:
                raise ValueError(
                    f"{self.file}: expected one column named {chosen}, found {len(found)}: {', '.join(found)}"
                )
        return image, captions


def path_in(scalar: pa.Scalar) -> Any:
    """Return a cell's value; for a struct without bytes return its path."""
    cell = _value(scalar)
    return cell.get("path") if isinstance(cell, dict) and not cell.get("bytes") else cell


def is_text_type(kind: pa.DataType) -> bool:
    """Return whether a column holds text."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _value(scalar: pa.Scalar) -> Any:
    """Return a cell's value, or a list's values; a BadRow where it is too large, or text that is not UTF-8."""
    if (size := _bytes_of(scalar)) > MAX_BYTES:
        return BadRow("member_too_large", f"expected at most {MAX_BYTES} bytes, found a cell of {size} bytes")
    if _is_list(scalar.type) and scalar.is_valid:
        return [_value(item) for item in scalar.values]
    try:
        found = scalar.as_py()
        return tuple(found) if isinstance(found, list) else found  # a list here is a map, say: one caption, no text
    except UnicodeDecodeError as error:  # Arrow does not check that its strings are UTF-8
        return BadRow("not_utf8", f"expected UTF-8 text, found {error.object!r:.80}")


def _bytes_of(scalar: pa.Scalar) -> int:
    """Return the bytes of a cell of text or bytes, or of lists or structs of them, without making a Python object."""
    if not scalar.is_valid:
        return 0
    if isinstance(scalar, (pa.DictionaryScalar, pa.ExtensionScalar)):
        return _bytes_of(scalar.value)
    if isinstance(scalar, pa.StructScalar):
        return sum(_bytes_of(scalar[i]) for i in range(len(scalar)))
    if isinstance(scalar, pa.ListScalar):
        return sum(map(_bytes_of, scalar.values))  # the array's own size would count a dictionary's repeats once
    return int(scalar.as_buffer().size) if isinstance(scalar, pa.BinaryScalar) else 0


def _count_pairs(captions: pa.Array) -> int:
    lengths = pc.fill_null(pc.list_value_length(captions), 0)
    return int(pc.sum(pc.max_element_wise(lengths, 1)).as_py() or 0)


def _is_list(kind: pa.DataType) -> bool:
    views = pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind)
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind) or views)


def _is_path(field: pa.Field) -> bool:
    """Return whether a column names files, which are then part of the content."""
    return is_text_type(field.type) and field.name.strip().lower() not in URL_COLUMNS


def _is_struct_with_path(kind: pa.DataType) -> bool:
    """Return whether a column holds structs with a path, as Hugging Face's are, with or without bytes."""
    return bool(pa.types.is_struct(kind)) and "path" in {field.name for field in kind}
