"""A version of a store, and the look-ups in it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.index.keys import Digests, digests
from storage.index.lookup import KeyIndex, Lookup, LookupResult
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
OF_INDEX = (
    Lookup(name="encodings", key=ENCODING_COLUMNS[:2], values=ENCODING_COLUMNS[2:], only_with="encoding_shard"),
    Lookup(name="latents", key=LATENT_COLUMNS[:1], values=LATENT_COLUMNS[1:], only_with="latent_shard"),
    Lookup(name="contents", key=("fingerprint", *CONTENT_COLUMNS), only_with="source", group="commit"),
    Lookup(
        name="rows",
        key=ROW_COLUMNS[:2],
        values=("row",),
        only_with="source_hash",
        unique=False,
        runs=True,
        group="commit",
    ),
)
OF_REJECTS = (Lookup(name="rows", key=ROW_COLUMNS[:2], values=("row", "reason"), unique=False),)
OF_REPEATS = (
    Lookup(name="rows", key=ROW_COLUMNS[:2], values=("row",), digest=("fingerprint", *CONTENT_COLUMNS), unique=False),
)


@dataclass(frozen=True)
class Snapshot:
    """A version of the store's index; all its look-ups see that version, whatever is committed meanwhile.

    Rejects and repeats have no version that a run pins: those count that there are when they are first asked for.
    """

    keys: KeyIndex
    """Look-ups in the index."""
    reject_keys: KeyIndex
    repeat_keys: KeyIndex | None
    at: TableVersion

    @property
    def version(self) -> int:
        """The version's number."""
        return self.at.number

    @property
    def index(self) -> Table:
        """The index."""
        return self.keys.table

    @cached_property
    def rejects_at(self) -> TableVersion:
        """The version of the rejects."""
        return self.reject_keys.table.newest()

    @cached_property
    def repeats_at(self) -> TableVersion | None:
        """The version of the repeats; None in a store that an earlier version of the program wrote last."""
        return None if self.repeat_keys is None else self.repeat_keys.table.newest()

    def prepare(self) -> None:
        """Map, or bring into memory, all that look-ups read: files that are merged and removed are not missed then."""
        self.keys.prepare(self.at)
        self.reject_keys.prepare(self.rejects_at)
        if self.repeat_keys is not None and self.repeats_at is not None:
            self.repeat_keys.prepare(self.repeats_at)

    def read(self, columns: Sequence[str], filters: Any = None) -> pa.Table:
        """Read columns of the index; see `Table.read`."""
        return self.index.read(self.at, columns, filters)

    def stream(self, columns: Sequence[str], fingerprint: str | None = None) -> Iterator[pa.Table]:
        """Yield columns of the index a few row groups at a time; see `Table.stream`."""
        return self.index.stream(self.at, columns, fingerprint)

    def encodings(self, fingerprint: str, caption_hashes: Iterable[str]) -> dict[str, EncodingRef]:
        """Return where the encodings of these captions lie; those that are not in the store are left out."""
        hashes = list(dict.fromkeys(caption_hashes))
        wanted = digests([_all(fingerprint, hashes), pa.array(hashes, pa.string())])
        found = self.keys.find(self.at, "encodings", wanted, fingerprint)
        return {hashes[which]: EncodingRef(*ref) for which, *ref in _rows(found, ENCODING_COLUMNS[2:])}

    def latents(self, latent_keys: Iterable[str]) -> dict[str, LatentRef]:
        """Return where these latents lie; those that are not in the store are left out."""
        keys = list(dict.fromkeys(latent_keys))
        found = self.keys.find(self.at, "latents", digests([pa.array(keys, pa.string())]))
        refs = _rows(found, LATENT_COLUMNS[1:])
        return {keys[which]: LatentRef(shard, index, shape, crc) for which, shard, shape, index, crc in refs}

    def sample_rows(self, fingerprint: str, source_hash: str) -> set[int]:
        """Return the rows of a source, known by its content's hash, that were committed under an encoder."""
        found = self.keys.find(self.at, "rows", _of_source(fingerprint, source_hash))
        runs = _rows(found, ("row", "count"))
        return {row for _, first, count in runs for row in range(first, first + count)}

    def reject_rows(self, fingerprint: str, source_hash: str, besides: Iterable[str] = ()) -> set[int]:
        """Return the rows of a source that were rejected under an encoder; leave those of some reasons out."""
        return reject_rows(self.reject_keys, self.rejects_at, fingerprint, source_hash, besides)

    def repeat_rows(self, fingerprint: str, source_hash: str) -> set[int]:
        """Return the rows of a source that hold what a sample holds, which is in this version still."""
        if self.repeat_keys is None or self.repeats_at is None:
            return set()
        repeats = self.repeat_keys.find(self.repeats_at, "rows", _of_source(fingerprint, source_hash)).values
        if not repeats:
            return set()
        known = self.keys.find(self.at, "contents", Digests(repeats["upper"], repeats["lower"])).which
        return set(repeats["row"][known].tolist())

    def contents(self, fingerprint: str, wanted: Collection[Content]) -> set[Content]:
        """Return which of these pictures with captions are samples of an encoder."""
        contents = list(wanted)
        columns = [pa.array(column, pa.string()) for column in zip(*contents, strict=True)] or [
            pa.array([], pa.string())
        ]
        found = self.keys.find(self.at, "contents", digests([_all(fingerprint, contents), *columns]))
        return {contents[which] for which in found.which}

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
        rows = self.reject_keys.table.read(self.rejects_at, REJECTS.names).cast(REJECTS)
        if not len(rows):
            return rows
        of_row = [REJECTS.field(name) for name in ROW_COLUMNS]
        samples = self.read(ROW_COLUMNS, pc.field("source").is_valid()).cast(pa.schema(of_row))
        rows = rows.join(samples, list(ROW_COLUMNS), join_type="left anti")
        rows = rows.join(self.repeats().select(ROW_COLUMNS), list(ROW_COLUMNS), join_type="left anti")
        return _sorted(rows, "source", "source_hash", "row", "fingerprint")

    def repeats(self) -> pa.Table:
        """Return the rows of the data that hold what a sample held when they were found, in no particular order."""
        if self.repeat_keys is None or self.repeats_at is None:
            return REPEATS.empty_table()
        return self.repeat_keys.table.read(self.repeats_at, REPEATS.names).cast(REPEATS)


def reject_rows(
    keys: KeyIndex, version: TableVersion, fingerprint: str, source_hash: str, besides: Iterable[str] = ()
) -> set[int]:
    """Return a source's refused rows, as `Snapshot.reject_rows` does, at a version of the table of rejects."""
    left_out = set(besides)
    found = _rows(keys.find(version, "rows", _of_source(fingerprint, source_hash)), ("row", "reason"))
    return {row for _, row, reason in found if reason not in left_out}


def repeat_rows(keys: KeyIndex, version: TableVersion, fingerprint: str, source_hash: str) -> set[int]:
    """Return the rows of a source that a version of the table of repeats names under an encoder."""
    return {row for _, row in _rows(keys.find(version, "rows", _of_source(fingerprint, source_hash)), ("row",))}


def _sorted(rows: pa.Table, *columns: str) -> pa.Table:
    return rows.sort_by([(name, "ascending") for name in columns])


def _all(value: str, of: Collection[Any]) -> pa.DictionaryArray:
    """Return a column of one value, as long as something else."""
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(len(of), np.int32)), pa.array([value], pa.string()))


def _of_source(fingerprint: str, source_hash: str) -> Digests:
    return digests([pa.array([fingerprint], pa.string()), pa.array([source_hash], pa.string())])


def _rows(found: LookupResult, columns: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    """Yield which key was found, and its values."""
    if len(found.which):
        yield from zip(found.which.tolist(), *(found.values[name].tolist() for name in columns), strict=True)
