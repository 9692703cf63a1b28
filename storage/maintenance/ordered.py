"""The samples of an encoder in the order of their sources and rows, with little memory."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from storage.index.row_stream import stream_rows
from storage.io.table_parts import TableParts
from storage.reading.sorting import COLUMNS, SourceCount
from storage.schema import INDEX
from storage.store import EncodingStore

PART_BITS = 17
"""Bits of the number of rows that are sorted in memory together: some 300 MB."""
MOST_PARTS = 512
"""Most files that are open at once; of more rows than fill them, more are sorted together."""
ORDER = ("source", "source_hash", "row", "caption_hash")


def ordered_samples(store: EncodingStore, fingerprint: str) -> Iterator[pa.Table]:
    """Yield an encoder's samples, all columns of the index, ordered by source and row.

    The index is read twice: the first time to count what lies where in that order; the second time its rows are dealt
    to files in the folder for temporary ones, each of which is then sorted in memory.
    """
    counted = SourceCount(max(PART_BITS, (store.snapshot().at.rows // MOST_PARTS).bit_length()))
    for batch in _samples(store, list(COLUMNS), fingerprint):
        counted.add(batch)
    layout = counted.layout()
    if not len(layout):
        return
    with tempfile.TemporaryDirectory(prefix="llmdiff-") as folder:
        parts = TableParts(Path(folder, "samples"), len(layout.first_keys))
        for batch in _samples(store, INDEX.names, fingerprint):
            parts.add(batch, layout.groups_of(layout.source_of(batch), batch["row"].to_numpy()))
        for table in parts.tables():
            assert table is not None
            yield table.cast(INDEX).sort_by([(name, "ascending") for name in ORDER])


def _samples(store: EncodingStore, columns: list[str], fingerprint: str) -> Iterator[pa.RecordBatch]:
    for batch in stream_rows(store.index, store.snapshot().at.files, columns, fingerprint):
        samples = batch.filter(pc.is_valid(batch["source"]))
        if samples.num_rows:
            yield samples
