"""A version of a store, and the look-ups in it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from storage.index.table import Table, TableVersion
from storage.schema import (
    CONTENT_COLUMNS,
    ENCODING_COLUMNS,
    INDEX,
    LATENT_COLUMNS,
    REJECTS,
    REPEATS,
    Content,
    EncodingRef,
    LatentRef,
)

ROW_COLUMNS = ("fingerprint", "source_hash", "row")


@dataclass(frozen=True)
class Snapshot:
    """A version of the store's index; all its look-ups see that version, whatever is committed meanwhile.

    Rejects and repeats have no version that a run pins: those count that there are when they are first asked for.
    """

    index: Table
    reject_table: Table
    repeat_table: Table | None
    at: TableVersion

    @property
    def version(self) -> int:
        """The version's number."""
        return self.at.number

    @cached_property
    def rejects_at(self) -> TableVersion:
        """The version of the rejects."""
        return self.reject_table.newest()

    @cached_property
    def repeats_at(self) -> TableVersion | None:
        """The version of the repeats; None in a store that an earlier version of the program wrote last."""
        return None if self.repeat_table is None else self.repeat_table.newest()

    def read(self, columns: Sequence[str], filters: Any = None) -> pa.Table:
        """Read columns of the index; see `Table.read`."""
        return self.index.read(self.at, columns, filters)

    def stream(self, columns: Sequence[str], fingerprint: str | None = None) -> Iterator[pa.Table]:
        """Yield columns of the index a row group at a time; see `Table.stream`."""
        return self.index.stream(self.at, columns, fingerprint)

    def encodings(self, fingerprint: str, caption_hashes: Iterable[str]) -> dict[str, EncodingRef]:
        """Return where the encodings of these captions lie; those that are not in the store are left out."""
        table = self.index.cached(self.at, ENCODING_COLUMNS)
        mask = pc.and_(pc.equal(table["fingerprint"], fingerprint), _is_in(table["caption_hash"], caption_hashes))
        rows = _columns(table.filter(mask))
        return {key: EncodingRef(*ref) for _, key, *ref in zip(*(rows[name] for name in ENCODING_COLUMNS), strict=True)}

    def latents(self, latent_keys: Iterable[str]) -> dict[str, LatentRef]:
        """Return where these latents lie; those that are not in the store are left out."""
        table = self.index.cached(self.at, LATENT_COLUMNS)
        rows = _columns(table.filter(_is_in(table["latent_key"], latent_keys)))
        refs = zip(*(rows[name] for name in LATENT_COLUMNS), strict=True)
        return {key: LatentRef(shard, index, shape, crc) for key, shard, shape, index, crc in refs}

    def sample_rows(self, fingerprint: str, source_hash: str) -> set[int]:
        """Return the rows of a source, known by its content's hash, that were committed under an encoder."""
        return rows_of(self.index, self.at, fingerprint, source_hash)

    def reject_rows(self, fingerprint: str, source_hash: str, besides: Iterable[str] = ()) -> set[int]:
        """Return the rows of a source that were rejected under an encoder; leave those of some reasons out."""
        return reject_rows(self.reject_table, self.rejects_at, fingerprint, source_hash, besides)

    def repeat_rows(self, fingerprint: str, source_hash: str) -> set[int]:
        """Return the rows of a source that hold what a sample holds, which is in this version still."""
        if self.repeat_table is None or self.repeats_at is None:
            return set()
        rows = self.repeat_table.cached(self.repeats_at, (*ROW_COLUMNS, *CONTENT_COLUMNS))
        found = rows.filter(_is_of(rows, fingerprint, source_hash)).to_pylist()
        contents = {row["row"]: (row["image_hash"], row["caption_hash"]) for row in found}
        known = self.contents(fingerprint, set(contents.values()))
        return {row for row, content in contents.items() if content in known}

    def contents(self, fingerprint: str, wanted: Collection[Content]) -> set[Content]:
        """Return which of these pictures with captions are samples of an encoder; each call reads the whole index."""
        if not wanted:
            return set()
        table = self.index.cached(self.at, ("fingerprint", "source", *CONTENT_COLUMNS))
        images, captions = zip(*wanted, strict=True)
        telling = _is_in(table["caption_hash"], captions) if None in images else _is_in(table["image_hash"], images)
        rows = table.filter(telling)
        rows = rows.filter(pc.and_(pc.equal(rows["fingerprint"], fingerprint), pc.is_valid(rows["source"])))
        return set(zip(*(rows[name].to_pylist() for name in CONTENT_COLUMNS), strict=True)) & set(wanted)

    def known_rows(self, fingerprint: str, source_hash: str) -> set[int]:
        """Return the rows of a source that were committed or rejected, or that hold what a sample holds."""
        done = self.sample_rows(fingerprint, source_hash) | self.reject_rows(fingerprint, source_hash)
        return done | self.repeat_rows(fingerprint, source_hash)

    def samples(self, fingerprint: str | None = None) -> pa.Table:
        """Return the rows of samples, ordered by source and row: the same order in any store of the same samples."""
        filters = pc.field("source").is_valid()
        if fingerprint is not None:
            filters &= pc.field("fingerprint") == fingerprint
        rows = self.read(INDEX.names, filters).cast(INDEX)
        return _sorted(rows, "source", "source_hash", "row", "caption_hash", "fingerprint")

    def rejects(self) -> pa.Table:
        """Return all refused rows but those that are samples or repeats by now, ordered by source and row."""
        rows = self.reject_table.read(self.rejects_at, REJECTS.names).cast(REJECTS)
        if not len(rows):
            return rows
        of_row = [REJECTS.field(name) for name in ROW_COLUMNS]
        samples = self.read(ROW_COLUMNS, pc.field("source").is_valid()).cast(pa.schema(of_row))
        rows = rows.join(samples, list(ROW_COLUMNS), join_type="left anti")
        rows = rows.join(self.repeats().select(ROW_COLUMNS), list(ROW_COLUMNS), join_type="left anti")
        return _sorted(rows, "source", "source_hash", "row", "fingerprint")

    def repeats(self) -> pa.Table:
        """Return the rows of the data that hold what a sample held when they were found, in no particular order."""
        if self.repeat_table is None or self.repeats_at is None:
            return REPEATS.empty_table()
        return self.repeat_table.read(self.repeats_at, REPEATS.names).cast(REPEATS)


def reject_rows(
    table: Table, version: TableVersion, fingerprint: str, source_hash: str, besides: Iterable[str] = ()
) -> set[int]:
    """Return what `Snapshot.reject_rows` does, at a version of the table of rejects."""
    rejects = table.cached(version, (*ROW_COLUMNS, "reason"))
    return _rows_of(rejects.filter(pc.invert(_is_in(rejects["reason"], besides))), fingerprint, source_hash)


def rows_of(table: Table, version: TableVersion, fingerprint: str, source_hash: str) -> set[int]:
    """Return the rows of a source that a version of a table names under an encoder."""
    return _rows_of(table.cached(version, ROW_COLUMNS), fingerprint, source_hash)


def _sorted(rows: pa.Table, *columns: str) -> pa.Table:
    return rows.sort_by([(name, "ascending") for name in columns])


def _columns(table: pa.Table) -> dict[str, list[Any]]:
    return {name: table[name].to_pylist() for name in table.column_names}


def _is_in(column: pa.ChunkedArray, values: Iterable[str]) -> pa.ChunkedArray:
    return pc.is_in(column, value_set=pa.array(sorted(set(values)), pa.string()))


def _rows_of(table: pa.Table, fingerprint: str, source_hash: str) -> set[int]:
    return set(table.filter(_is_of(table, fingerprint, source_hash))["row"].to_pylist())


def _is_of(table: pa.Table, fingerprint: str, source_hash: str) -> pa.ChunkedArray:
    return pc.and_(pc.equal(table["fingerprint"], fingerprint), pc.equal(table["source_hash"], source_hash))
