"""Samples whose rows are in the data no more, and their removal from the newest version."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc

from storage.index.transaction import rewrite
from storage.maintenance.counts import remember
from storage.maintenance.data_sets import DataSet, note
from storage.schema import CONTENT_COLUMNS, INDEX, Content
from storage.store import EncodingStore
from storage.writing.orphans import rewriting

KEY = ("fingerprint", "source_hash", "row", "caption_hash")
"""Columns that identify a sample."""
LEFT = pa.schema([INDEX.field(name) for name in (*KEY, "image_hash", "source", "caption")])


def left_rows(store: EncodingStore, fingerprint: str, known: Sequence[DataSet], data: Collection[str]) -> pa.Table:
    """Return the samples of an encoder that were of some data sets and whose rows are in no data set any more.

    A sample's row may lie in several sources: in that which it was first found in, and in those of its repeats. It has
    left where each of them is known to be of a data set of this store, none is a source that any of them has now, and
    one at least was of the data sets named. A source that no run noted, such as one that an earlier version of the
    program encoded, keeps its rows.

    Args:
        store: at its newest version.
        fingerprint: the encoder.
        known: all data sets of the encoder, as `storage.maintenance.data_sets` keeps them.
        data: the names of some.

    Returns:
        The columns of `LEFT`, ordered by source and row.
    """
    ours = _united(each.ever for each in known if each.data in data)
    gone = _united(each.earlier for each in known) - _united(each.sources for each in known)
    if not gone & ours:
        return LEFT.empty_table()
    of_gone = (pc.field("fingerprint") == fingerprint) & pc.field("source_hash").isin(sorted(gone))
    found = store.snapshot().read(LEFT.names, of_gone).cast(LEFT)
    sources = _sources_of_repeats(store, fingerprint, found)
    for content, first in zip(_contents(found), found["source_hash"].to_pylist(), strict=True):
        sources.setdefault(content, set()).add(first)
    left = [sources[content] <= gone and bool(sources[content] & ours) for content in _contents(found)]
    return found.filter(pa.array(left, pa.bool_())).sort_by([(name, "ascending") for name in ("source", "row")])


def edited_in_place(store: EncodingStore, known: DataSet, left: pa.Table) -> pa.Table:
    """Return those of `left_rows` in whose place a data set has another row now, of another picture or caption.

    The place is a source's name and a row's number. The row there is new to the data, and has the same caption or the
    same picture: one that only moved there edits nothing. Of captions alone no row edits another, for nothing of the
    earlier one is left to know it by.
    """
    if not len(left):
        return left
    now = pa.array(sorted(known.sources), pa.string())
    here = (pc.field("fingerprint") == known.fingerprint) & pc.field("source_hash").isin(now)
    here &= pc.field("source").isin(left["source"].unique()) & pc.field("row").isin(left["row"].unique())
    there: dict[tuple[str, int], list[Content]] = {}
    for row in store.snapshot().read(LEFT.names, here).to_pylist():
        there.setdefault((row["source"], row["row"]), []).append((row["image_hash"], row["caption_hash"]))
    edited = [
        any(
            (image is not None and image == row["image_hash"]) or caption == row["caption_hash"]
            for image, caption in contents
        )
        for row in left.to_pylist()
        for contents in [there.get((row["source"], row["row"]), [])]
    ]
    return left.filter(pa.array(edited, pa.bool_()))


def drop_rows(store: EncodingStore, rows: pa.Table) -> None:
    """Take samples, some of `left_rows`, out of the newest version; earlier ones keep them."""
    if len(rows):
        with rewriting(store, name := f"drop-{uuid.uuid4().hex}"):
            if rewrite(store.index, name, lambda table: _without(table, rows)) is not None:
                remember(store)


def drop_rejects(store: EncodingStore, fingerprint: str, known: Sequence[DataSet]) -> None:
    """Forget the refused rows of sources that no data set has any more: their rows are looked at where they are now."""
    gone = _united(each.earlier for each in known) - _united(each.sources for each in known)
    rejects = store.rejects()
    if len(_without_sources(rejects, fingerprint, gone)) < len(rejects):
        with rewriting(store, name := f"drop-{uuid.uuid4().hex}"):
            rewrite(store.reject_table, name, lambda table: _without_sources(table, fingerprint, gone))


def drop_left(store: EncodingStore, fingerprint: str, known: Sequence[DataSet], data: Collection[str]) -> int:
    """Take `left_rows` out of the newest version, and forget refused rows and repeats of sources that are gone.

    Earlier versions keep the samples. Return how many there were; the arguments are those of `left_rows`.
    """
    with rewriting(store, name := f"drop-{uuid.uuid4().hex}"):
        rows = left_rows(store, fingerprint, known, data)
        gone = _united(each.earlier for each in known if each.data in data) - _united(each.sources for each in known)
        for table in store.tables[1:]:
            rewrite(table, name, lambda table: _without_sources(table, fingerprint, gone))
        if rewrite(store.index, name, lambda table: _without(table, rows)) is not None:
            remember(store)
    of_encoder = pc.field("fingerprint") == fingerprint
    named = set(store.snapshot().read(["source_hash"], of_encoder)["source_hash"].unique().to_pylist())
    for each in known:
        note(store, replace(each, earlier={key: name for key, name in each.earlier.items() if key not in gone - named}))
    return len(rows)


def _sources_of_repeats(store: EncodingStore, fingerprint: str, rows: pa.Table) -> dict[Content, set[str]]:
    """Return the sources that hold what some samples hold, besides the one that each was first found in."""
    repeats = store.snapshot().repeats()
    of_rows = pc.is_in(repeats["caption_hash"], value_set=rows["caption_hash"].combine_chunks())
    repeats = repeats.filter(pc.and_(of_rows, pc.equal(repeats["fingerprint"], fingerprint)))
    found: dict[Content, set[str]] = {}
    for content, source in zip(_contents(repeats), repeats["source_hash"].to_pylist(), strict=True):
        found.setdefault(content, set()).add(source)
    return found


def _contents(rows: pa.Table) -> list[Content]:
    return list(zip(*(rows[name].to_pylist() for name in CONTENT_COLUMNS), strict=True))


def _without(table: pa.Table, rows: pa.Table) -> pa.Table:
    """Return a file's rows but for some samples."""
    if not pc.any(pc.is_in(table["source_hash"], value_set=rows["source_hash"].combine_chunks())).as_py():
        return table
    dropped = set(zip(*(rows[name].to_pylist() for name in KEY), strict=True))
    keys = zip(*(table[name].to_pylist() for name in KEY), strict=True)
    return table.filter(pa.array([key not in dropped for key in keys], pa.bool_()))


def _without_sources(table: pa.Table, fingerprint: str, hashes: Collection[str]) -> pa.Table:
    """Return a file's rows but for those of some sources."""
    of_sources = pc.is_in(table["source_hash"], value_set=pa.array(sorted(hashes), pa.string()))
    return table.filter(pc.invert(pc.and_(of_sources, pc.equal(table["fingerprint"], fingerprint))))


def _united(parts: Iterable[Iterable[str]]) -> set[str]:
    return {each for part in parts for each in part}
