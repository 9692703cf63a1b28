"""The rows of arrays that a store's version names, read with their checksums."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.hashing import checksum
from storage.index.names import Names
from storage.index.row_stream import stream_rows
from storage.io.arrays import open_array, read_rows
from storage.io.paths import StorePath
from storage.io.table_parts import TableParts
from storage.schema import ENCODING_COLUMNS, LATENT_COLUMNS
from storage.store import EncodingStore

BYTES_AT_ONCE = 64 * 1024 * 1024
"""Most bytes that are read from an array at once."""
INDEX_BYTES_A_PART = 64 * 1024 * 1024
"""Bytes of the index, which is compressed, whose rows are in memory together."""


@dataclass(frozen=True, kw_only=True)
class StoredRows:
    """Rows of one array that the index names: encodings' tokens or latents, in the order in which they lie."""

    name: str
    """Name of the array inside its shard."""
    keys: list[Any]
    """(fingerprint, caption hash) of encodings, keys of latents."""
    first: np.ndarray
    """int64 ``(n,)``"""
    count: np.ndarray
    """int64 ``(n,)``"""
    checksum: np.ndarray
    """int64 ``(n,)``"""

    def read(self, folder: StorePath) -> Iterator[tuple[Any, np.ndarray | None]]:
        """Yield each key with its bytes as they were committed, or None where they are lost."""
        try:
            array = open_array(folder, self.name)
        except ValueError:
            yield from ((key, None) for key in self.keys)
            return
        rows_at_once = BYTES_AT_ONCE // (array.dtype.itemsize * int(np.prod(array.shape[1:])) or 1)
        for start, stop in _runs(self.first, self.count, rows_at_once):
            rows = _read_each(array, self.first[start:stop], self.count[start:stop])
            for i, row in zip(range(start, stop), rows, strict=True):
                intact = row is not None and checksum(row) == self.checksum[i]
                yield self.keys[i], row if intact else None


def stored_rows(store: EncodingStore, shards: Collection[str] | None = None) -> Iterator[tuple[str, list[StoredRows]]]:
    """Yield all that the store's version names, a shard at a time, in no particular order.

    The index is read once, and its rows are dealt to files in the folder for temporary ones: of each, the rows of some
    shards fit into memory.

    Args:
        store: to read.
        shards: which ones; None for all.
    """
    files = store.snapshot().at.files
    sizes = store.index.folder.file_sizes()
    parts = 1 + sum(sizes.get(name, 0) for name in files) // INDEX_BYTES_A_PART
    with tempfile.TemporaryDirectory(prefix="llmdiff-") as folder:
        encodings, latents = TableParts(Path(folder, "encodings"), parts), TableParts(Path(folder, "latents"), parts)
        names = Names()
        for batch in stream_rows(store.index, files, [*ENCODING_COLUMNS, *LATENT_COLUMNS]):
            for kind, columns, shard in (
                (encodings, ENCODING_COLUMNS, "encoding_shard"),
                (latents, LATENT_COLUMNS, "latent_shard"),
            ):
                rows = batch.select(columns).filter(_wanted(batch[shard], shards))
                if rows.num_rows:
                    kind.add(rows, names.numbers(rows[shard]) % parts)
        for of_encodings, of_latents in zip(encodings.tables(), latents.tables(), strict=True):
            found: dict[str, list[StoredRows]] = {}
            _add_encodings(found, of_encodings)
            _add_latents(found, of_latents)
            yield from sorted(found.items())


def _wanted(column: pa.Array, shards: Collection[str] | None) -> pa.Array:
    if shards is None:
        return pc.is_valid(column)
    return pc.is_in(column.cast(pa.string()), value_set=pa.array(sorted(shards), pa.string()))


def _add_encodings(found: dict[str, list[StoredRows]], encodings: pa.Table | None) -> None:
    if encodings is None:
        return
    for (shard, fingerprint), rows in _by(encodings, "encoding_shard", "fingerprint", order="first_token"):
        stored = StoredRows(
            name=f"encodings/{fingerprint}",
            keys=[(fingerprint, key) for key in rows["caption_hash"].to_pylist()],
            first=rows["first_token"].to_numpy(),
            count=rows["token_count"].to_numpy().astype(np.int64),
            checksum=rows["encoding_checksum"].to_numpy(),
        )
        found.setdefault(shard, []).append(stored)


def _add_latents(found: dict[str, list[StoredRows]], latents: pa.Table | None) -> None:
    if latents is None:
        return
    for (shard, shape), rows in _by(latents, "latent_shard", "latent_shape", order="latent_index"):
        stored = StoredRows(
            name=f"latents/{shape}",
            keys=rows["latent_key"].to_pylist(),
            first=rows["latent_index"].to_numpy(),
            count=np.ones(len(rows), np.int64),
            checksum=rows["latent_checksum"].to_numpy(),
        )
        found.setdefault(shard, []).append(stored)


def _by(table: pa.Table, *keys: str, order: str) -> Iterator[tuple[tuple[str, ...], pa.Table]]:
    """Yield a table's distinct rows by the values of two columns, sorted by a third."""
    table = table.group_by(table.column_names).aggregate([])
    table = table.sort_by([(name, "ascending") for name in (*keys, order)]).combine_chunks()
    groups = [table[key].combine_chunks().dictionary_encode().indices.to_numpy() for key in keys]
    changes = np.any([np.diff(group, prepend=-1) != 0 for group in groups], axis=0)
    edges = [*np.flatnonzero(changes).tolist(), len(table)]
    for start, stop in zip(edges, edges[1:], strict=False):
        rows = table.slice(start, stop - start)
        yield tuple(rows[key][0].as_py() for key in keys), rows


def _runs(first: np.ndarray, count: np.ndarray, limit: int) -> Iterator[tuple[int, int]]:
    """Yield slices of sorted rows that span at most `limit` rows of the array, or are a single one."""
    start = 0
    for i in range(1, len(first) + 1):
        if i == len(first) or first[i] + count[i] - first[start] > limit:
            yield start, i
            start = i


def _read_each(array: Any, first: np.ndarray, count: np.ndarray) -> Iterator[np.ndarray | None]:
    """Yield rows read at once; where that fails, one by one, and None for those that can't be read."""
    try:
        block = read_rows(array, int(first[0]), int((first + count).max()))
    except ValueError:
        for a, n in zip(first.tolist(), count.tolist(), strict=True):
            try:
                yield read_rows(array, a, a + n)
            except ValueError:
                yield None
        return
    for a, n in zip((first - first[0]).tolist(), count.tolist(), strict=True):
        yield block[a : a + n]
