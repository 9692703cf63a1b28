"""Repairs a damaged store: keeps what is whole, forgets what is lost, so that the next encode makes just that again."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.index.transaction import rewrite
from storage.io.names import shard_folder
from storage.maintenance.counts import remember
from storage.maintenance.stored_rows import stored_rows
from storage.schema import CONTENT_COLUMNS, ENCODING_COLUMNS, INDEX, LATENT_COLUMNS, Problem
from storage.store import EncodingStore
from storage.writing.commit import encoding_columns, latent_columns
from storage.writing.orphans import rewriting
from storage.writing.staging import StagedArrays


@dataclass(frozen=True)
class Repaired:
    """The result of `repair`."""

    version: int
    """The first version that names no damaged shard."""
    moved: int
    """Encodings and latents copied whole into a new shard."""
    lost: pa.Table
    """Samples to encode again: the columns of `LOST`."""


LOST = pa.schema([INDEX.field(name) for name in ("fingerprint", "source", "source_hash", "row", *CONTENT_COLUMNS)])


def repair(store: EncodingStore, problems: Iterable[Problem]) -> Repaired:
    """Copy what is whole of the damaged shards into a new one, and take out of the index what is lost.

    Afterwards `Snapshot.known_rows` does not know the lost rows, so encoding their sources again makes them and no
    others. Versions before this one still name the damaged shards.

    Raises:
        ValueError: a problem lies in the tables or the fingerprints: they are restored from a backup, not from data.
    """
    problems = list(problems)
    for problem in problems:
        if problem.shard is None and problem.kind != "orphan":
            raise ValueError(f"{store.path / problem.path}: can't be repaired: {problem.detail}")
    damaged = {problem.shard for problem in problems if problem.shard is not None}
    name = f"repair-{uuid.uuid4().hex}"
    lost: list[dict[str, Any]] = []
    with rewriting(store, name):
        moved = _salvage(store, damaged, name)
        if rewrite(store.index, name, lambda rows: _repair_rows(rows, damaged, moved, lost)) is not None:
            remember(store)
    return Repaired(store.index.newest().number, len(moved), pa.Table.from_pylist(lost, LOST))


def _salvage(store: EncodingStore, damaged: set[str], name: str) -> dict[Any, dict[str, Any]]:
    """Copy the rows of damaged shards that match their checksums; return their new columns of the index by key."""
    staged = StagedArrays(store, name)
    moved: dict[Any, dict[str, Any]] = {}
    try:
        for shard, stored in sorted(stored_rows(store, damaged), key=itemgetter(0)):
            for rows in stored:
                for key, row in rows.read(shard_folder(store.path, shard)):
                    if row is not None and key not in moved:
                        moved[key] = _move(staged, key, row)
        staged.publish()
    finally:
        staged.discard()
    return moved


def _move(staged: StagedArrays, key: Any, row: np.ndarray) -> dict[str, Any]:
    """Write an encoding, whose key is fingerprint and caption hash, or a latent; return its columns of the index."""
    if isinstance(key, tuple):
        return encoding_columns(key, staged.add_encoding(key[0], row))
    return latent_columns(key, staged.add_latent(row[0]))


def _repair_rows(
    rows: pa.Table, damaged: set[str], moved: dict[Any, dict[str, Any]], lost: list[dict[str, Any]]
) -> pa.Table:
    """Return a file's rows, pointing at the new shard; what a sample that lost one part still has stays without it."""
    shards = pa.array(sorted(damaged), pa.string())
    touched = pc.or_(pc.is_in(rows["encoding_shard"], shards), pc.is_in(rows["latent_shard"], shards))
    repaired = []
    for row in rows.filter(touched).to_pylist():
        encoding, latent = ({name: row[name] for name in names} for names in (ENCODING_COLUMNS, LATENT_COLUMNS))
        if encoding["encoding_shard"] in damaged:
            encoding = moved.get((row["fingerprint"], row["caption_hash"]), {})
        if latent["latent_shard"] in damaged:
            latent = moved.get(row["latent_key"], {})
        if encoding and latent:
            repaired.append({**row, **encoding, **latent})
            continue
        if row["source"] is not None:
            lost.append({name: row[name] for name in LOST.names})
        if encoding.get("encoding_shard") or latent.get("latent_shard"):
            repaired.append({**encoding, **latent, "shard": row["shard"]})
    return pa.concat_tables([rows.filter(pc.invert(touched)), pa.Table.from_pylist(repaired, INDEX)])
