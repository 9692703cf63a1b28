"""The rows of the index that training reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from storage.index.row_stream import stream_rows
from storage.store import EncodingStore

PICTURES = ("source", "latent_shard")
"""Columns that are both filled for a sample with a picture."""


def trainable_rows(store: EncodingStore, fingerprint: str, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Yield an encoder's samples with pictures a few at a time, in no particular order; no empty batches.

    Columns of few values come as dictionaries.
    """
    wanted = [*columns, *(name for name in PICTURES if name not in columns)]
    for batch in stream_rows(store.index, store.snapshot().at.files, wanted, fingerprint):
        kept = batch.filter(pc.and_(*(pc.is_valid(batch[name]) for name in PICTURES))).select(list(columns))
        if kept.num_rows:
            yield kept
