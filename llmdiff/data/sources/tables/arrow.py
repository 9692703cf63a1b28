"""Arrow files, which Hugging Face's `datasets` leaves with ``save_to_disk``: streams, or with a footer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from llmdiff.cached import cached_attribute
from llmdiff.data.rejects import BadRow
from llmdiff.data.remote import DataPath
from llmdiff.data.sources.limits import most_rows
from llmdiff.data.sources.opening import is_utf8, size_of
from llmdiff.data.sources.rows import Row
from llmdiff.data.sources.streamed import StreamedFile
from llmdiff.data.sources.tables.columnar import ColumnarShard

BYTES_OF_TEXT = {pa.string(): pa.binary(), pa.large_string(): pa.large_binary(), pa.string_view(): pa.binary_view()}
"""Types of bytes by types of text: whether the bytes are UTF-8 is checked row by row."""
MAGIC = b"ARROW1"
"""First bytes of a file with a footer; a stream begins otherwise."""


class ArrowShard(StreamedFile, ColumnarShard):
    """An Arrow file, mapped into memory where it is on a disk; see `ColumnarShard`.

    Its schema is at its beginning, but nothing says how many rows follow.
    """

    @cached_attribute
    def schema(self) -> pa.Schema:
        with self._reader() as (schema, _):
            return schema

    @cached_attribute
    def row_count(self) -> int:
        return sum(batch.num_rows for batch in self._whole_batches())

    def rows(self) -> Iterator[tuple[int, Row | BadRow]]:
        """See `ColumnarShard`; at the end this sets the count, for which the file would have to be read again."""
        number = -1
        for number, row in super().rows():
            yield number, row
        self.tell_count(number + 1)

    def batches(self, columns: list[str]) -> Iterator[pa.RecordBatch]:
        for chosen in self._whole_batches(columns):
            yield from (chosen.slice(i, self.batch_rows) for i in range(0, len(chosen), self.batch_rows))

    def _whole_batches(self, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Yield all batches, or some of their columns, checked: Arrow itself would crash on invalid ones."""
        most, rows = most_rows(size_of(self.file)), 0
        with self._reader() as (_, batches):
            try:
                for batch in batches:
                    rows += batch.num_rows
                    if rows > most:
                        raise pa.ArrowInvalid(f"expected at most {most} rows in a file of its size, found {rows}")
                    chosen = batch if columns is None else batch.select(columns)
                    for column in chosen.columns if columns is not None else ():
                        as_bytes = BYTES_OF_TEXT.get(column.type)
                        (column if as_bytes is None else column.view(as_bytes)).validate(full=True)
                    yield chosen
            except ConnectionError:
                raise
            except (pa.ArrowException, OSError) as error:
                raise ValueError(f"{self.file}: damaged Arrow file: {error}") from error

    @contextmanager
    def _reader(self) -> Iterator[tuple[pa.Schema, Iterator[pa.RecordBatch]]]:
        try:
            with self.file.open("rb") as opened:
                has_footer = opened.read(len(MAGIC)) == MAGIC
            source = _mapped(self.file)
            reader = pa.ipc.open_file(source) if has_footer else pa.ipc.open_stream(source)
        except ConnectionError:
            raise
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{self.file}: expected an Arrow file, found none: {error}") from error
        with source:
            batches = map(reader.get_batch, range(reader.num_record_batches)) if has_footer else iter(reader)
            yield reader.schema, batches


def _mapped(file: DataPath) -> pa.NativeFile:
    is_mapped = isinstance(file, Path) and is_utf8(file)
    return pa.memory_map(str(file)) if is_mapped else pa.PythonFile(file.open("rb"))
