"""Streams of the rows of a table's version, read ahead by threads: in memory are some row groups, whatever the rows."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from queue import Queue
from threading import Event, Thread

import pyarrow as pa

from storage.index.table import Table

ROWS = 1 << 16
"""Most rows of a batch."""
AHEAD = 2
"""Number of row groups that are read before they are asked for."""


def stream_rows(
    table: Table, files: Sequence[str], columns: Sequence[str], fingerprint: str | None = None
) -> Iterator[pa.RecordBatch]:
    """Yield columns of some of a table's files, in no particular order; see `Table.stream`."""
    with closing(_read_ahead(table, files, columns, fingerprint, table.read_at_once(files))) as groups:
        for group in groups:
            yield from group.combine_chunks().to_batches(max_chunksize=ROWS)


def _read_ahead(
    table: Table, files: Sequence[str], columns: Sequence[str], fingerprint: str | None, threads: int
) -> Generator[pa.Table, None, None]:
    left, ready, ended = iter(files), Queue[pa.Table | BaseException | None](AHEAD), Event()

    def read() -> None:
        try:
            for file in left:  # each is taken by one thread, for advancing a sequence's iterator is atomic
                for group in table.stream_file(file, columns, fingerprint):
                    if ended.is_set():
                        return
                    ready.put(group)
        except BaseException as error:  # raised again where the rows are asked for
            ready.put(error)
        finally:
            ready.put(None)

    for _ in range(threads):
        Thread(target=read, daemon=True, name="read-index").start()
    try:
        while threads:
            found = ready.get()
            if isinstance(found, BaseException):
                raise found
            if found is None:
                threads -= 1
            else:
                yield found
    finally:
        ended.set()
        while threads:  # one that waits for room ends when it has it
            threads -= ready.get() is None
