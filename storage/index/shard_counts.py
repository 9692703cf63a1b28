"""What a file of the index says of the shards that its rows were committed with, so that counting reads no rows.

It lies in the footer of the Parquet file: a commit writes it, a merge puts together those of the files merged. What a
shard's rows name in other shards was counted with those.
"""

from __future__ import annotations

import json
import zlib
from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

KEY = "llmdiff.shards"
"""Name in the footer."""
FORMAT = 1
MOST_RUNS = 256
"""Runs of rows that are noted of a shard; where there are more, none is."""
COLUMNS = (
    *("shard", "fingerprint", "encoding_shard", "first_token", "token_count"),
    *("latent_shard", "latent_shape", "latent_index", "source", "source_hash", "row"),
)
"""Of the index, that are counted."""
Runs = dict[str, dict[str, list[int]]]
"""By fingerprint and source hash, first row and number of rows of each run."""


@dataclass
class ShardCounts:
    """What lies in a shard as the index names it."""

    samples: dict[str, int] = field(default_factory=dict)
    """Committed with it, by fingerprint."""
    encodings: dict[str, int] = field(default_factory=dict)
    """By fingerprint."""
    tokens: dict[str, int] = field(default_factory=dict)
    """Of the encodings, by fingerprint."""
    latents: dict[str, int] = field(default_factory=dict)
    """By shape."""
    bytes: dict[str, int] = field(default_factory=dict)
    """Of ``encodings``, of ``latents``, and of ``all`` its files; empty where nobody noted them."""
    sources: list[str] = field(default_factory=list)
    """Names of its samples' sources."""
    rows: Runs | None = field(default_factory=dict)
    """Its samples' rows of their sources; None where they are too scattered to note."""


def count_shards(rows: pa.Table, sizes: Mapping[str, Mapping[str, int]]) -> dict[str, ShardCounts]:
    """Return what rows of the index say of the shards that they were committed with, by name.

    Args:
        rows: all of those shards, with `COLUMNS`.
        sizes: `ShardCounts.bytes` of shards, where they are known.
    """
    rows = rows.select(COLUMNS)
    found = {name: ShardCounts(bytes=dict(sizes.get(name, {}))) for name in rows["shard"].unique().to_pylist()}
    samples = rows.filter(pc.is_valid(rows["source"]))
    for shard, fingerprint, count in _counted(samples, ["shard", "fingerprint"], []):
        found[shard].samples[fingerprint] = count
    for shard, source, _ in _counted(samples, ["shard", "source"], []):
        found[shard].sources.append(source)
    encodings = _distinct(rows, "encoding_shard", ["fingerprint", "first_token", "token_count"])
    for shard, fingerprint, tokens, count in _counted(encodings, ["shard", "fingerprint"], ["token_count"]):
        found[shard].encodings[fingerprint], found[shard].tokens[fingerprint] = count, tokens
    latents = _distinct(rows, "latent_shard", ["latent_shape", "latent_index"])
    for shard, shape, count in _counted(latents, ["shard", "latent_shape"], []):
        found[shard].latents[shape] = count
    _add_runs(found, samples)
    return found


def note_of(shards: Mapping[str, ShardCounts]) -> str:
    """Return what stands in a footer."""
    said = {"format": FORMAT, "shards": {name: asdict(counts) for name, counts in shards.items()}}
    return b64encode(zlib.compress(json.dumps(said, separators=(",", ":")).encode())).decode()


def noted(metadata: Mapping[bytes, bytes] | None) -> dict[str, ShardCounts] | None:
    """Return what a footer says; None where it says nothing, or what it says is damaged."""
    with suppress(ValueError, KeyError, TypeError, AttributeError, zlib.error):  # zlib has a checksum
        said = json.loads(zlib.decompress(b64decode((metadata or {})[KEY.encode()])))
        shards = {name: ShardCounts(**counts) for name, counts in said["shards"].items()}
        if said["format"] == FORMAT and all(map(_is_sound, shards.values())):
            return shards
    return None


def _is_sound(counts: ShardCounts) -> bool:
    """Return whether what was read are counts."""
    kinds = (counts.samples, counts.encodings, counts.tokens, counts.latents, counts.bytes)
    runs = [run for sources in (counts.rows or {}).values() for run in sources.values()]
    numbers = [number for kind in kinds for number in kind.values()] + [number for run in runs for number in run]
    sound = all(type(number) is int and 0 <= number < 1 << 62 for number in numbers)
    return sound and not any(len(run) % 2 for run in runs) and all(isinstance(name, str) for name in counts.sources)


def _distinct(rows: pa.Table, lies_in: str, columns: list[str]) -> pa.Table:
    """Return what rows name in their own shards, each once."""
    own = rows.filter(pc.equal(rows[lies_in], rows["shard"]))
    return own.group_by(["shard", *columns], use_threads=False).aggregate([])


def _counted(rows: pa.Table, keys: list[str], sums: list[str]) -> Iterable[tuple[Any, ...]]:
    """Yield distinct keys, sums of columns, and the number of rows, sorted."""
    asked = [*((name, "sum") for name in sums), ([], "count_all")]
    counted = rows.group_by(keys, use_threads=False).aggregate(asked)
    names = [*keys, *(f"{name}_sum" for name in sums), "count_all"]
    return sorted(zip(*(counted[name].to_pylist() for name in names), strict=True))


def _add_runs(found: Mapping[str, ShardCounts], samples: pa.Table) -> None:
    """Note the rows of each shard's samples as runs."""
    keys = ("shard", "fingerprint", "source_hash")
    codes, row = [_codes(samples[name]) for name in keys], samples["row"].to_numpy()
    order = np.lexsort((row, *reversed(codes)))
    row, codes = row[order], [code[order] for code in codes]
    same = np.all([code[1:] == code[:-1] for code in codes], axis=0)
    step = np.diff(row)
    again = same & (step == 0)
    begins = np.flatnonzero(np.append(True, ~(same & (step <= 1)))) if len(row) else np.empty(0, np.int64)
    counts = np.add.reduceat(np.append(True, ~again), begins) if len(row) else begins
    places = pa.array(order[begins])
    names = [samples[name].take(places).to_pylist() for name in keys]
    runs = [*names, row[begins].tolist(), counts.tolist()]
    for shard, fingerprint, source, first, count in zip(*runs, strict=True):
        if (rows := found[shard].rows) is not None:
            rows.setdefault(fingerprint, {}).setdefault(source, []).extend((first, count))
    for counted in found.values():
        runs_of = [run for sources in (counted.rows or {}).values() for run in sources.values()]
        if sum(map(len, runs_of)) > 2 * MOST_RUNS:
            counted.rows = None


def _codes(column: pa.ChunkedArray) -> np.ndarray:
    """Return a number for each row's text, int64 ``(n,)``."""
    codes = column.combine_chunks().dictionary_encode().indices
    return np.asarray(pc.fill_null(codes, -1).to_numpy(zero_copy_only=False), np.int64)
