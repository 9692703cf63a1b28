"""Mends a damaged store: keeps what is whole, forgets what is lost, so that the next encode makes just that again."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.hashing import checksum
from storage.io.arrays import ArrayWriter, encoding_writer, latent_writer
from storage.maintenance.verify import stored_rows
from storage.schema import ENCODING_COLUMNS, INDEX, LATENT_COLUMNS, EncodingRef, LatentRef, Problem
from storage.writing.writer import discard, draft_of, encoding_columns, latent_columns, rewriting, seal

if TYPE_CHECKING:
    from storage.store import EncodingStore


@dataclass(frozen=True)
class Repaired:
    """What `repair` did."""

    version: int
    """The first version that names no damaged shard."""
    moved: int
    """Encodings and latents copied whole into a new shard."""
    lost: pa.Table
    """Samples to encode again: ``fingerprint``, ``source``, ``source_hash``, ``row``."""


LOST = pa.schema([INDEX.field(name) for name in ("fingerprint", "source", "source_hash", "row")])


def repair(store: EncodingStore, problems: Iterable[Problem]) -> Repaired:
    """Copies what is whole of the damaged shards into a new one, and takes out of the index what is lost.

    Afterwards `find_samples` does not know the lost rows, so encoding their sources again makes them and no others.
    Versions before this one still name the damaged shards.

    Raises:
        ValueError: a problem lies in the tables or the fingerprints: they are restored from a backup, not from data.
    """
    problems = list(problems)
    for problem in problems:
        if problem.shard is None and problem.kind != "orphan":
            raise ValueError(f"{store.path / problem.path}: can't be mended: {problem.detail}")
    damaged = {problem.shard for problem in problems if problem.shard is not None}
    name = f"repair-{uuid.uuid4().hex}"
    lost: list[dict[str, Any]] = []
    with rewriting(store, name):
        moved = _salvage(store, damaged, name)
        store.index.rewrite(name, lambda rows: _mend(rows, damaged, moved, lost))
    return Repaired(store.index.snapshot().version, len(moved), pa.Table.from_pylist(lost, LOST))


def _salvage(store: EncodingStore, damaged: set[str], name: str) -> dict[Any, dict[str, Any]]:
    """Copies the rows of damaged shards that match their checksums; returns their new columns of the index by key."""
    folder = store.path / "shards" / name
    draft = draft_of(folder)
    arrays: dict[str, ArrayWriter] = {}
    moved: dict[Any, dict[str, Any]] = {}
    try:
        for shard, stored in stored_rows(store).items():
            for rows in stored if shard in damaged else ():
                for key, row in rows.read(store.path / "shards" / shard):
                    if row is None or key in moved:
                        continue
                    if rows.name not in arrays:
                        arrays[rows.name] = _array_like(store, draft, rows.name, row)
                    moved[key] = _columns(name, rows.name, key, arrays[rows.name].append(row), row)
        if arrays:
            seal(draft, folder, arrays.values())
    finally:
        discard(draft, folder)
    return moved


def _array_like(store: EncodingStore, folder: Path, name: str, row: np.ndarray) -> ArrayWriter:
    kind, key = name.split("/")
    if kind == "latents":
        return latent_writer(folder, row.shape[1:])
    return encoding_writer(folder, key, row.shape[1], int(store.fingerprints()[key].get("bands", 1)))


def _columns(shard: str, array: str, key: Any, first: int, row: np.ndarray) -> dict[str, Any]:
    kind, name = array.split("/")
    if kind == "latents":
        return latent_columns(key, LatentRef(shard, first, name, checksum(row)))
    return encoding_columns(key, EncodingRef(shard, first, len(row), checksum(row)))


def _mend(rows: pa.Table, damaged: set[str], moved: dict[Any, dict[str, Any]], lost: list[dict[str, Any]]) -> pa.Table:
    """A file's rows, pointing at the new shard. Of a sample that lost one part, the other stays without the sample."""
    shards = pa.array(sorted(damaged), pa.string())
    touched = pc.or_(pc.is_in(rows["encoding_shard"], shards), pc.is_in(rows["latent_shard"], shards))
    mended = []
    for row in rows.filter(touched).to_pylist():
        encoding, latent = ({name: row[name] for name in names} for names in (ENCODING_COLUMNS, LATENT_COLUMNS))
        if encoding["encoding_shard"] in damaged:
            encoding = moved.get((row["fingerprint"], row["caption_hash"]), {})
        if latent["latent_shard"] in damaged:
            latent = moved.get(row["latent_key"], {})
        if encoding and latent:
            mended.append({**row, **encoding, **latent})
            continue
        if row["source"] is not None:
            lost.append({name: row[name] for name in LOST.names})
        if encoding.get("encoding_shard") or latent.get("latent_shard"):
            mended.append({**encoding, **latent, "shard": row["shard"]})
    return pa.concat_tables([rows.filter(pc.invert(touched)), pa.Table.from_pylist(mended, INDEX)])
