"""Counts of the shards that a file's rows were committed with, noted in the file, so that counting reads no rows.

They lie in the footer of the Parquet file: a commit writes them, a merge combines those of its files. What a
shard's rows name in other shards was counted with those.
"""

from __future__ import annotations

import json
import zlib
from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

KEY = "llmdiff.shards"
"""Key in the file's footer."""
FORMAT = 1
LONGEST = 64 * 1024**2
"""Most bytes of a note, unpacked: a hundred times the counts of the largest stores that were made."""
DAMAGED = (ValueError, KeyError, TypeError, AttributeError, RecursionError, zlib.error)
"""Errors that are raised over a note that no writer wrote."""
MOST_RUNS = 256
"""Runs of rows that are noted of a shard; where there are more, none is."""
TEXTS = ("shard", "fingerprint", "encoding_shard", "latent_shard", "latent_shape", "source", "source_hash")
NUMBERS = ("first_token", "token_count", "latent_index", "row")
COLUMNS = (*TEXTS, *NUMBERS)
"""Columns of the index that are counted."""
Runs = dict[str, dict[str, list[int]]]
"""First row and number of rows of each run, by fingerprint and source hash."""


@dataclass
class ShardCounts:
    """Counts of what lies in a shard as the index names it."""

    samples: dict[str, int] = field(default_factory=dict)
    """Number of samples committed with it, by fingerprint."""
    encodings: dict[str, int] = field(default_factory=dict)
    """Number of encodings, by fingerprint."""
    tokens: dict[str, int] = field(default_factory=dict)
    """Number of the encodings' tokens, by fingerprint."""
    latents: dict[str, int] = field(default_factory=dict)
    """Number of latents, by shape."""
    bytes: dict[str, int] = field(default_factory=dict)
    """Sizes of ``encodings``, ``latents`` and ``all`` its files; empty where nobody noted them."""
    sources: list[str] = field(default_factory=list)
    """Names of its samples' sources."""
    rows: Runs | None = field(default_factory=dict)
    """Its samples' rows of their sources; None where they are too scattered to note."""


@dataclass(frozen=True)
class Coded:
    """A column of texts that come again and again."""

    codes: np.ndarray
    """Index of each row's value, int64 ``(n,)``; -1 for null."""
    values: list[str]

    @classmethod
    def of(cls, column: pa.ChunkedArray) -> Coded:
        """Return a column so; neighbours that are alike are looked at together, where it is no dictionary's."""
        array = column.combine_chunks()
        if pa.types.is_dictionary(array.type):
            codes = pc.fill_null(array.indices, -1).to_numpy(zero_copy_only=False)
            return cls(np.asarray(codes, np.int64), array.dictionary.to_pylist())
        runs = pc.run_end_encode(array)
        found = runs.values.dictionary_encode()
        codes = np.asarray(pc.fill_null(found.indices, -1).to_numpy(zero_copy_only=False), np.int64)
        return cls(np.repeat(codes, np.diff(runs.run_ends.to_numpy(), prepend=0)), found.dictionary.to_pylist())


def counted_columns(rows: pa.Table) -> pa.Table:
    """Return the columns that `count_shards` counts, with little memory: texts as dictionaries."""
    few = pa.dictionary(pa.int32(), pa.string())
    return rows.select(COLUMNS).cast(pa.schema([(name, few if name in TEXTS else pa.int64()) for name in COLUMNS]))


def count_shards(rows: pa.Table, sizes: Mapping[str, Mapping[str, int]]) -> dict[str, ShardCounts]:
    """Return what rows of the index say of the shards that they were committed with, by name.

    Args:
        rows: all of those shards, with `COLUMNS`.
        sizes: `ShardCounts.bytes` of shards, where they are known.
    """
    texts = {name: Coded.of(rows[name]) for name in TEXTS}
    numbers = {name: pc.fill_null(rows[name], 0).to_numpy() for name in NUMBERS}
    shard, fingerprint, source, shape = (texts[name] for name in ("shard", "fingerprint", "source", "latent_shape"))
    names = [shard.values[code] for code in np.unique(shard.codes)]
    found = {name: ShardCounts(bytes=dict(sizes.get(name, {}))) for name in names}
    samples = np.flatnonzero(source.codes >= 0)
    for of, by, count in _summed(samples, shard, fingerprint):
        found[of].samples[by] = count
    for of, name, _ in _summed(samples, shard, source):
        found[of].sources.append(name)
    encodings = _distinct(_own(shard, texts["encoding_shard"]), shard, fingerprint, numbers["first_token"])
    for of, by, count in _summed(encodings, shard, fingerprint):
        found[of].encodings[by] = count
    for of, by, tokens in _summed(encodings, shard, fingerprint, numbers["token_count"]):
        found[of].tokens[by] = tokens
    latents = _distinct(_own(shard, texts["latent_shard"]), shard, shape, numbers["latent_index"])
    for of, by, count in _summed(latents, shard, shape):
        found[of].latents[by] = count
    _add_runs(found, samples, [texts[name] for name in ("shard", "fingerprint", "source_hash")], numbers["row"])
    return found


def note_of(shards: Mapping[str, ShardCounts]) -> str:
    """Return the note of a file's footer."""
    said = {"format": FORMAT, "shards": {name: asdict(counts) for name, counts in shards.items()}}
    return b64encode(zlib.compress(json.dumps(said, separators=(",", ":")).encode())).decode()


def noted(metadata: Mapping[bytes, bytes] | None) -> dict[str, ShardCounts] | None:
    """Return a footer's note; None where there is none, or it is damaged, or longer than any is."""
    with suppress(*DAMAGED):
        said = unpacked(b64decode((metadata or {})[KEY.encode()]), LONGEST)
        if said["format"] == FORMAT:
            return shards_of(said["shards"])
    return None


def unpacked(data: bytes, longest: int) -> Any:
    """Return compressed JSON; one of `DAMAGED` where it is none, or more than so many bytes."""
    unpacking = zlib.decompressobj()  # which compares a checksum at the end
    text = unpacking.decompress(data, longest)
    if not unpacking.eof:
        raise ValueError(f"expected at most {longest} bytes, found more")
    return json.loads(text)


def shards_of(said: Mapping[str, Any]) -> dict[str, ShardCounts]:
    """Return counts by shard as JSON has them; one of `DAMAGED` where it has none."""
    shards = {name: ShardCounts(**counts) for name, counts in said.items()}
    if not all(map(_is_sound, shards.values())):
        raise ValueError("expected counts of shards, found other values")
    return shards


def _is_sound(counts: ShardCounts) -> bool:
    """Return whether what was read are counts."""
    kinds = (counts.samples, counts.encodings, counts.tokens, counts.latents, counts.bytes)
    runs = [run for sources in (counts.rows or {}).values() for run in sources.values()]
    numbers = [number for kind in kinds for number in kind.values()] + [number for run in runs for number in run]
    sound = all(type(number) is int and 0 <= number < 1 << 62 for number in numbers)
    return sound and not any(len(run) % 2 for run in runs) and all(isinstance(name, str) for name in counts.sources)


def _own(shard: Coded, lies_in: Coded) -> np.ndarray:
    """Return which rows name something in the shard that they were committed with."""
    number = {name: i for i, name in enumerate(shard.values)}
    renumbered = np.array([*(number.get(name, -2) for name in lies_in.values), -2])
    return np.flatnonzero(renumbered[lies_in.codes] == shard.codes)


def _distinct(rows: np.ndarray, major: Coded, minor: Coded, number: np.ndarray) -> np.ndarray:
    """Return the rows but for those that name what another one does."""
    code, number = _pairs(rows, major, minor), number[rows]
    order = np.lexsort((number, code))
    again = (np.diff(code[order]) == 0) & (np.diff(number[order]) == 0)
    return rows[order[np.append(True, ~again)]] if len(rows) else rows


def _summed(
    rows: np.ndarray, major: Coded, minor: Coded, numbers: np.ndarray | None = None
) -> Iterator[tuple[str, str, int]]:
    """Yield pairs of values that rows have, and how many have each, or the sum of their numbers."""
    pairs, place = np.unique(_pairs(rows, major, minor), return_inverse=True)
    sums = np.zeros(len(pairs), np.int64)
    np.add.at(sums, place, 1 if numbers is None else numbers[rows])
    for pair, total in zip(pairs.tolist(), sums.tolist(), strict=True):
        yield major.values[pair // len(minor.values)], minor.values[pair % len(minor.values)], total


def _pairs(rows: np.ndarray, major: Coded, minor: Coded) -> np.ndarray:
    return major.codes[rows] * len(minor.values) + minor.codes[rows]


def _add_runs(found: Mapping[str, ShardCounts], samples: np.ndarray, keys: Sequence[Coded], row: np.ndarray) -> None:
    """Note the rows of each shard's samples as runs; `keys` are shard, fingerprint and source hash."""
    codes, row = [key.codes[samples] for key in keys], row[samples]
    order = np.lexsort((row, *reversed(codes)))
    row, codes = row[order], [code[order] for code in codes]
    same, step = np.all([np.diff(code) == 0 for code in codes], axis=0), np.diff(row)
    begins = np.flatnonzero(np.append(True, ~(same & (step <= 1)))) if len(row) else np.empty(0, np.int64)
    counts = np.add.reduceat(np.append(True, ~same | (step > 0)), begins, dtype=np.int64) if len(row) else begins
    runs = [*(code[begins].tolist() for code in codes), row[begins].tolist(), counts.tolist()]
    for of, by, source, first, count in zip(*runs, strict=True):
        if (rows := found[keys[0].values[of]].rows) is not None:
            rows.setdefault(keys[1].values[by], {}).setdefault(keys[2].values[source], []).extend((first, count))
    for counted in found.values():
        runs_of = [run for sources in (counted.rows or {}).values() for run in sources.values()]
        if sum(map(len, runs_of)) > 2 * MOST_RUNS:
            counted.rows = None
