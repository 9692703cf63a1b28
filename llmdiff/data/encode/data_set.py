"""Compare a whole data set with the store: find rows that were edited in it, or have left it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from llmdiff.data.encode.data_name import data_name
from llmdiff.data.rejects import TRY_AGAIN
from llmdiff.data.sources import Columns, list_data, shards_of
from llmdiff.data.sources.columns import KNOWN
from storage import EncodingStore
from storage.locks.base import LockedError
from storage.maintenance.data_sets import DataSet, data_set, data_sets, note
from storage.maintenance.left_rows import drop_left, drop_rejects, drop_rows, edited_in_place, left_rows

SHOWN = 5
"""Rows that a report spells out."""
SHOWN_CAPTION = 60
"""Characters of a caption that a report shows."""


@dataclass(frozen=True, kw_only=True)
class LeftRows:
    """The store's samples that were of a data set and are in no data set any more."""

    count: int | None
    """Number of these samples; None where it is not known."""
    examples: list[str] = field(default_factory=list)
    """File, row and caption of the first few; where `count` is None, what could not be read instead, and why."""
    replaced: int = 0
    """Samples taken out of the newest version because their row has another picture or caption by now."""


def note_sources(
    store: EncodingStore, data: str, fingerprint: str, sources: Mapping[str, str], columns: Columns = KNOWN
) -> None:
    """Note sources, as names by content hash, that a run of a data set has encoded; it may not have seen them all."""
    note(store, data_set(store, data_name(data, columns), fingerprint).after(sources, whole=False))


def find_left(
    store: EncodingStore,
    data: str,
    fingerprint: str,
    sources: Mapping[str, str],
    unread: Mapping[str, str],
    passed_over: Mapping[str, str],
    columns: Columns = KNOWN,
) -> LeftRows:
    """Note what a run of a data set found, take out the rows that were edited, and report those that have left.

    Args:
        store: opened for writing.
        data: file, folder or address of the data.
        fingerprint: the encoder of the run.
        sources: names of the shards that it read, by the hashes of their content.
        unread: files that it could not read, and why. Any row may be in them, so none counts as left then.
        passed_over: what it did not look into, and why. If an earlier run read it, no row counts as left either.
        columns: the chosen ones; with others, the data count as another data set.
    """
    before = data_set(store, data_name(data, columns), fingerprint)
    unknown = {**unread, **read_before(before, passed_over), **unanswered(store, fingerprint, sources)}
    known = before.after(sources, whole=not unknown)
    note(store, known)
    if unknown:
        return LeftRows(count=None, examples=[f"{name}: {why}" for name, why in list(unknown.items())[:SHOWN]])
    all_known = data_sets(store, fingerprint)
    left = left_rows(store, fingerprint, all_known, [known.data])
    edited = edited_in_place(store, known, left)
    with suppress(LockedError):  # another writer holds the object store's lock: the next run drops them
        drop_rejects(store, fingerprint, all_known)
        drop_rows(store, edited)
    still = left_rows(store, fingerprint, all_known, [known.data]) if len(edited) else left
    return LeftRows(count=len(still), examples=described(still), replaced=len(left) - len(still))


def drop_missing(
    store: EncodingStore,
    data: Sequence[str],
    fingerprint: str | None = None,
    dry_run: bool = False,
    columns: Columns = KNOWN,
    progress: Callable[[int, int], None] = lambda done, shards: None,
) -> dict[str, pa.Table]:
    """Take out of the newest version the samples that were of some data sets and are in no data set any more.

    Args:
        store: opened for writing.
        data: files, folders or addresses of the data sets, each encoded into the store as it is now.
        fingerprint: the encoder whose samples they are; None is each that the data sets were encoded with.
        dry_run: take nothing out, only report.
        columns: the columns that were chosen when the data were encoded.
        progress: called with (shards read, shards in all) after each.

    Returns:
        The samples by encoder; see `storage.maintenance.left_rows.LEFT`.

    Raises:
        FileNotFoundError: there are no such data.
        ValueError: a file can't be read, or is not in the store as it is now: it is not known which rows have left.
    """
    found = {data_name(each, columns): sources_of(each, columns, progress) for each in data}
    encoders = [fingerprint] if fingerprint is not None else encoders_of(store, found)
    missing = {}
    for encoder in encoders:
        known = {each.data: each for each in data_sets(store, encoder)}
        for name, (sources, passed_over) in found.items():
            before = known.get(name, DataSet(data=name, fingerprint=encoder))
            check_known(store, before, sources, passed_over)
            known[name] = before.after(sources, whole=True)
        missing[encoder] = left_rows(store, encoder, list(known.values()), found)
        if not dry_run:
            for name in found:
                note(store, known[name])
            drop_left(store, encoder, list(known.values()), found)
    return missing


def sources_of(
    data: str, columns: Columns, progress: Callable[[int, int], None]
) -> tuple[dict[str, str], dict[str, str]]:
    """Return the sources of a data set, as names by content hash, and what is passed over; see `drop_missing`."""
    listed = list_data(data, columns=columns)
    shards = shards_of(listed.files, columns)
    sources = {}
    for done, shard in enumerate(shards, 1):
        sources[shard.content_hash] = shard.name
        progress(done, len(shards))
    return sources, listed.passed_over


def encoders_of(store: EncodingStore, data: Mapping[str, object]) -> list[str]:
    """Return the encoders that some data sets were encoded with; ValueError where there is none."""
    found = sorted({each.fingerprint for each in data_sets(store) if each.data in data})
    if not found:
        raise ValueError(f"{store.path}: expected data that were encoded into it, found {', '.join(data)}")
    return found


def check_known(
    store: EncodingStore, before: DataSet, sources: Mapping[str, str], passed_over: Mapping[str, str]
) -> None:
    """Raise ValueError where a data set may have other rows than its last run encoded."""
    of = f"under {before.fingerprint}: it is not known which rows have left"
    for name in (name for key, name in sources.items() if key not in before.sources):
        raise ValueError(f"{before.data}: {name} is new or changed since it was last encoded {of}: encode first")
    unknown = {**read_before(before, passed_over), **unanswered(store, before.fingerprint, sources)}
    for name, why in unknown.items():
        raise ValueError(f"{before.data}: {name} {of}: {why}")


def read_before(before: DataSet, passed_over: Mapping[str, str]) -> dict[str, str]:
    """Return what is passed over now although the last run read it, or something in it."""

    def was_read(name: str) -> bool:
        if name == ".":  # all of the data
            return bool(before.sources)
        folder = name if name.endswith("/") else f"{name}/"
        return any(each == name or each.startswith((folder, f"{name}[")) for each in before.sources.values())

    return {name: why for name, why in passed_over.items() if was_read(name)}


def unanswered(store: EncodingStore, fingerprint: str, sources: Mapping[str, str]) -> dict[str, str]:
    """Return the sources with rows that may yet become samples: their picture could not be fetched the last time."""
    rejects = store.rejects()
    of_encoder = pc.and_(pc.equal(rejects["fingerprint"], fingerprint), _is_in(rejects["reason"], TRY_AGAIN))
    names = rejects.filter(pc.and_(of_encoder, _is_in(rejects["source_hash"], sources)))["source"]
    return dict.fromkeys(names.unique().to_pylist(), "rows whose picture was not to be had; encoding tries again")


def described(rows: pa.Table) -> list[str]:
    """Return the first few samples in words."""
    return [
        f"{row['source']} row {row['row']}: {row['caption'][:SHOWN_CAPTION]!r}"
        for row in rows.slice(0, SHOWN).to_pylist()
    ]


def _is_in(column: pa.ChunkedArray, values: Sequence[str] | Mapping[str, str]) -> pa.ChunkedArray:
    return pc.is_in(column, value_set=pa.array(sorted(values), pa.string()))
