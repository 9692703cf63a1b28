"""Refused rows that are still refused, found with little memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.index.names import Names
from storage.index.row_stream import stream_rows
from storage.index.shard_counts import ShardCounts
from storage.index.table import Table, TableVersion
from storage.schema import REJECTS
from storage.store import EncodingStore

KEY = ("fingerprint", "source_hash", "row")


def open_rejects(store: EncodingStore) -> Iterator[pa.RecordBatch]:
    """Yield all refused rows but those that are samples or repeats by now, in no particular order.

    The columns are those of `storage.schema.REJECTS`. In memory are 16 bytes a refused row; three columns of the index
    are read, unless nothing was refused.
    """
    snapshot = store.snapshot()
    keys = RejectKeys(store.reject_table, snapshot.rejects_at)
    if not len(keys):
        return
    keys.strike_out(store.index, snapshot.at)
    if store.is_up_to_date:
        keys.strike_out(store.repeat_table, store.repeat_table.newest())
    for batch in stream_rows(store.reject_table, snapshot.rejects_at.files, REJECTS.names):
        still = batch.filter(pa.array(~keys.struck_out(batch)))
        if still.num_rows:
            yield still.cast(REJECTS)


def listed_rejects(store: EncodingStore) -> pa.Table:
    """Return `open_rejects`, ordered by source and row."""
    rows = pa.Table.from_batches(open_rejects(store), REJECTS)
    return rows.sort_by([(name, "ascending") for name in ("source", "source_hash", "row", "fingerprint")])


def count_rows(table: Table, version: TableVersion) -> int:
    """Return how many rows a version has, as the log says it, or the files' footers where it does not."""
    if all(file.rows for file in version.entries):
        return version.rows
    total = 0
    for name in version.files:
        with table.open_file(name, ["row"]) as file:
            total += file.metadata.num_rows
    return total


class RejectKeys:
    """Keys of refused rows, by source and encoder, and which of them count no more."""

    def __init__(self, table: Table, version: TableVersion) -> None:
        """Read the refused rows' keys."""
        self._fingerprints, self._sources = Names(), Names()
        read = [self._read(batch) for batch in stream_rows(table, version.files, KEY)]
        fingerprints, sources, rows = np.concatenate([np.empty((3, 0), np.int64), *read], axis=1)
        self._rows = int(rows.max(initial=0)) + 1
        self._keys = np.unique(self._key(fingerprints, sources, rows))
        self._struck = np.zeros(len(self._keys), bool)

    def __len__(self) -> int:
        return len(self._keys)

    def strike_out(self, table: Table, version: TableVersion) -> None:
        """Strike out those that are rows of a table; of the index, samples.

        Where a file notes its samples' rows, none of its rows is read.
        """
        unknown = list(version.files)
        if table.counts_shards:
            of_files = dict(zip(version.files, table.shards_of(version.files), strict=True))
            unknown = [file for file, shards in of_files.items() if shards is None or not self._strike_runs(shards)]
        for batch in stream_rows(table, unknown, [*KEY, "source"]):
            rows = batch.filter(pc.is_valid(batch["source"]))
            numbers = self._fingerprints.find(rows["fingerprint"]), self._sources.find(rows["source_hash"])
            row = rows["row"].to_numpy()
            maybe = (numbers[0] >= 0) & (numbers[1] >= 0) & (row < self._rows)
            keys = self._key(numbers[0][maybe], numbers[1][maybe], row[maybe])
            places = np.searchsorted(self._keys, keys)
            places = np.minimum(places, len(self._keys) - 1)
            self._struck[places[self._keys[places] == keys]] = True

    def _strike_runs(self, shards: Mapping[str, ShardCounts]) -> bool:
        """Strike out the samples of some shards; False where one of them does not say its rows."""
        if any(shard.rows is None for shard in shards.values()):
            return False
        fingerprints, sources = (
            {text: i for i, text in enumerate(names.values)} for names in (self._fingerprints, self._sources)
        )
        for shard in shards.values():
            for fingerprint, of_encoder in (shard.rows or {}).items():
                for source in of_encoder.keys() & sources.keys() if fingerprint in fingerprints else ():
                    runs = np.array(of_encoder[source], np.int64).reshape(-1, 2)
                    edges = np.minimum(np.cumsum(runs, axis=1), self._rows)
                    keys = self._key(fingerprints[fingerprint], sources[source], edges)
                    for first, stop in np.searchsorted(self._keys, keys).tolist():
                        self._struck[first:stop] = True
        return True

    def struck_out(self, batch: pa.RecordBatch) -> np.ndarray:
        """Return which of some refused rows are struck out, bool ``(n,)``."""
        return np.asarray(self._struck[np.searchsorted(self._keys, self._key(*self._read(batch)))])

    def _read(self, batch: pa.RecordBatch) -> np.ndarray:
        """Return numbers of fingerprint and source, and the row: int64 ``(3, n)``."""
        names = self._fingerprints.numbers(batch["fingerprint"]), self._sources.numbers(batch["source_hash"])
        return np.stack([*names, batch["row"].to_numpy()])

    def _key(self, fingerprints: np.ndarray | int, sources: np.ndarray | int, rows: np.ndarray) -> np.ndarray:
        return (sources * len(self._fingerprints) + fingerprints) * self._rows + rows
