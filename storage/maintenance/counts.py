"""Counts of a store's version by shard, made with little memory, and kept for the next time.

Each file of the index notes what its rows say of the shards that they were committed with
(`storage.index.shard_counts`), and no row is read. Once rows were taken out, what is left of a shard may be named by
other shards' rows alone. So whoever takes rows out counts those that are left, and the store keeps those counts:
the notes of later files are added to them. Only where a file notes nothing, as those of earlier versions of the program
and of other ones do, rows are counted: numbers and names of few values alone, no hash and no caption. A machine keeps
those counts below `storage.io.cache_folder.cache_folder`; of a later version it reads the files that are new, unless
rows were taken out since, and of those the rows of commits that were not counted, for compaction brings others in. What
such rows name in shards that were counted was counted with those.
"""

from __future__ import annotations

import json
import logging
import tempfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.hashing import canonical_json, checksum, content_hash
from storage.index.names import Names
from storage.index.row_stream import stream_rows
from storage.index.shard_counts import DAMAGED, ShardCounts, shards_of, unpacked
from storage.index.table import TableVersion
from storage.io.array_parts import ArrayParts
from storage.io.cache_folder import cache_folder
from storage.io.grouping import places_by_number
from storage.io.manifest import shard_bytes
from storage.io.paths import StorePath, store_path
from storage.store import EncodingStore

logger = logging.getLogger(__name__)
FORMAT = 2
KEPT = "_counts"
"""Name of the file in the index's folder; Delta's clients leave alone what begins so."""
PACKED_AT_MOST = 200
"""Largest factor by which that file may be packed; of shards that are all alike it is 70."""
ENCODINGS = ("encoding_shard", "fingerprint", "first_token", "token_count")
LATENTS = ("latent_shard", "latent_shape", "latent_index")
ARRAY_BITS, FIRST_BITS = 10, 32
"""Bits of an array's name, and of a row of the array, in the number of a place, below those of the shard."""
PLACE = np.dtype([("place", "<i8"), ("count", "<i8")])
"""A place, that is shard, array and row of it as one number, and the number of rows from there on."""


@dataclass
class Counts:
    """Counts of what a version holds."""

    shards: dict[str, ShardCounts] = field(default_factory=dict)
    """Counts of the shards that the version names, by name."""
    sources: set[str] = field(default_factory=set)
    """Names of the sources that samples are of."""
    files: tuple[str, ...] = ()
    """Files of the index that were counted."""
    number: int = 0
    """Number of the version."""
    rewrites: frozenset[str] = frozenset()
    """Commits before it that took rows out; see `Table.rewrites`."""

    def total(self, what: str) -> Counter[str]:
        """Return the sum of one kind of counts over the shards."""
        total: Counter[str] = Counter()
        for shard in self.shards.values():
            total.update(getattr(shard, what))
        return total


def counts_of(store: EncodingStore) -> Counts:
    """Count what the version holds that the store shows."""
    newest, rewrites = store.index.newest_and_rewrites()
    at = store.pinned or newest
    on_machine = store_path(cache_folder() / "counts" / content_hash(store.id.encode()))
    kept = _recall([*[store.index.folder / KEPT] * bool(rewrites), on_machine], store, at.number)
    for known in kept if rewrites else [Counts(), *kept]:
        if known.rewrites == rewrites and (found := _with_notes(store, known, at)) is not None:
            return found
    known = next((each for each in kept if _goes_on(store, each, at)), Counts())
    counted = _with_rows(store, known, at, rewrites)
    if store.pinned is None:
        _keep(on_machine, store, counted)
    return counted


def remember(store: EncodingStore) -> None:
    """Count the newest version's rows and have the store keep that, after some were taken out.

    They are out, whatever keeps the counts from being kept: it is logged, and whoever asks for them counts.
    """
    try:
        at, rewrites = store.index.newest_and_rewrites()
        _keep(store.index.folder / KEPT, store, _with_rows(store, Counts(), at, rewrites))
    except (OSError, ValueError) as error:
        logger.warning("%s: what is left in it could not be counted: %s", store.path, error)


def _with_notes(store: EncodingStore, known: Counts, at: TableVersion) -> Counts | None:
    """Return the counts of a version, those of an earlier one with what new files note; None where one does not."""
    found = Counts(dict(known.shards), set(known.sources), at.files, at.number, known.rewrites)
    for shards in store.index.shards_of(_new_files(known, at)):
        if shards is None:
            return None
        for name in shards.keys() - known.shards.keys():
            found.shards[name] = shards[name]
            found.sources.update(shards[name].sources)
    _add_bytes(store, found, {})
    return found


def _with_rows(store: EncodingStore, known: Counts, at: TableVersion, rewrites: frozenset[str]) -> Counts:
    """Return the counts of a version, those of an earlier one with what rows of new files say."""
    found = Counts(dict(known.shards), set(known.sources), at.files, at.number, rewrites)
    if new := _new_files(known, at):
        _count(store, new, found)
        notes = (shards or {} for shards in store.index.shards_of(new))
        _add_bytes(store, found, {name: shard.bytes for shards in notes for name, shard in shards.items()})
    return found


def _new_files(known: Counts, at: TableVersion) -> list[str]:
    return sorted(set(at.files) - set(known.files))


def _add_bytes(store: EncodingStore, counts: Counts, noted: Mapping[str, dict[str, int]]) -> None:
    """Add the bytes of shards whose bytes are not known: as files noted them, or else as the shards' manifests do."""
    for name, shard in sorted(counts.shards.items()):
        if not shard.bytes and (shard.encodings or shard.latents):
            shard.bytes = noted.get(name) or shard_bytes(store.path, name)


def _count(store: EncodingStore, files: Sequence[str], counts: Counts) -> None:
    """Add what files of the index name in shards that were not counted yet."""
    before = frozenset(counts.shards)
    with tempfile.TemporaryDirectory(prefix="llmdiff-") as folder:
        sizes = store.index.folder.file_sizes()
        rows = sum(sizes.get(name, 0) for name in files) // 100  # a row of the index takes 100 bytes at least
        encodings = Places(Path(folder, "encodings"), rows, before)
        latents = Places(Path(folder, "latents"), rows, before)
        for batch in stream_rows(store.index, files, ["source", "shard", *ENCODINGS, *LATENTS]):
            rows = _without(batch, "shard", before)
            _count_samples(rows, counts)
            encodings.add(rows.select(ENCODINGS))
            latents.add(rows.select(LATENTS))
        for shard, fingerprint, number, tokens in encodings.distinct():
            of_shard = counts.shards.setdefault(shard, ShardCounts())
            of_shard.encodings[fingerprint], of_shard.tokens[fingerprint] = number, tokens
        for shard, shape, number, _ in latents.distinct():
            counts.shards.setdefault(shard, ShardCounts()).latents[shape] = number


def _without(batch: pa.RecordBatch, column: str, names: frozenset[str]) -> pa.RecordBatch:
    """Return the rows that have none of some names in a column."""
    if not names:
        return batch
    known = pa.array(sorted(names), pa.string())
    return batch.filter(pc.invert(pc.is_in(batch[column].cast(pa.string()), value_set=known)))


def _goes_on(store: EncodingStore, known: Counts, at: TableVersion) -> bool:
    """Return whether a version has all rows that were counted of an earlier one."""
    return set(known.files) <= set(at.files) or _is_all_kept(store, known.number, at.number)


def _is_all_kept(store: EncodingStore, first: int, last: int) -> bool:
    """Return whether no row was taken out between two versions: what files lost, other files got by compaction."""
    with suppress(ValueError, TypeError, AttributeError):
        entries = store.index.log.read_from(range(first + 1, last + 1))
        removed = (action["remove"] for actions in entries for action in actions if "remove" in action)
        return len(entries) == last - first and not any(action.get("dataChange", True) for action in removed)
    return False


def _count_samples(batch: pa.RecordBatch, counts: Counts) -> None:
    rows = batch.filter(pc.is_valid(batch["source"]))
    sources, shards, fingerprints = Names(), Names(), Names()
    sources.numbers(rows["source"])
    counts.sources.update(sources.values)
    pair = shards.numbers(rows["shard"]) << 32 | fingerprints.numbers(rows["fingerprint"])
    for code, places in places_by_number(pair):
        of_shard = counts.shards.setdefault(shards.values[code >> 32], ShardCounts()).samples
        fingerprint = fingerprints.values[code & (1 << 32) - 1]
        of_shard[fingerprint] = of_shard.get(fingerprint, 0) + len(places)


class Places:
    """Places of arrays that rows name, each once."""

    def __init__(self, folder: Path, rows: int, without: frozenset[str]) -> None:
        """Keep what `add` brings in a folder to be made; leave out what lies in some shards."""
        self.without = without
        self._shards, self._arrays = Names(), Names()
        self._parts = ArrayParts(folder, PLACE, rows)

    def add(self, batch: pa.RecordBatch) -> None:
        """Add rows: columns of shard, array, first row and, where that is not 1, number of rows."""
        there = _without(batch.filter(pc.is_valid(batch.column(0))), batch.schema.names[0], self.without)
        shard, array = self._shards.numbers(there.column(0)), self._arrays.numbers(there.column(1))
        assert len(self._arrays) <= 1 << ARRAY_BITS
        assert len(self._shards) <= 1 << 63 - ARRAY_BITS - FIRST_BITS
        rows = np.ones(there.num_rows, PLACE)
        rows["place"] = (shard << ARRAY_BITS | array) << FIRST_BITS | there.column(2).to_numpy()
        if there.num_columns > 3:
            rows["count"] = there.column(3).to_numpy()
        self._parts.add(rows, shard & (1 << self._parts.bits) - 1)

    def distinct(self) -> Iterator[tuple[str, str, int, int]]:
        """Yield shard, array, how many places are named there, and their rows together."""
        for rows in self._parts.arrays():
            rows = rows[np.argsort(rows["place"])]
            rows = rows[np.diff(rows["place"], prepend=-1) != 0]
            group = rows["place"] >> FIRST_BITS
            begins = np.flatnonzero(np.diff(group, prepend=-1))
            numbers = np.diff(np.append(begins, len(rows)))
            sums = np.add.reduceat(rows["count"], begins) if len(begins) else begins
            for code, number, total in zip(group[begins].tolist(), numbers.tolist(), sums.tolist(), strict=True):
                array = self._arrays.values[code & (1 << ARRAY_BITS) - 1]
                yield self._shards.values[code >> ARRAY_BITS], array, number, total


def _version(store: EncodingStore, number: int) -> str | None:
    """Return a text for a version, which a copy of the store does not share once it went on; None without any."""
    with suppress(FileNotFoundError):
        return content_hash(store.index.log.entry(number).read_bytes())
    return None


def _recall(paths: Iterable[StorePath], store: EncodingStore, number: int) -> list[Counts]:
    """Return the counts that were kept of this version or earlier ones."""
    return [found for path in paths if (found := _kept(path, store)) is not None and found.number <= number]


def _kept(path: StorePath, store: EncodingStore) -> Counts | None:
    with suppress(OSError, *DAMAGED):
        packed = path.read_bytes()
        kept = unpacked(packed, PACKED_AT_MOST * len(packed))
        expected = kept.pop("crc32c")
        if checksum(canonical_json(kept).encode()) != expected or kept["format"] != FORMAT:
            return None
        if kept["version"] == _version(store, kept["number"]):
            shards = shards_of(kept["shards"])
            files, rewrites = tuple(kept["files"]), frozenset(kept["rewrites"])
            return Counts(shards, set(kept["sources"]), files, kept["number"], rewrites)
    return None


def _keep(path: StorePath, store: EncodingStore, counts: Counts) -> None:
    """Keep the counts of the newest version, where there is room."""
    if (version := _version(store, counts.number)) is None:
        return
    kept: dict[str, Any] = {"format": FORMAT, "number": counts.number, "version": version}
    kept |= {"files": list(counts.files), "sources": sorted(counts.sources), "rewrites": sorted(counts.rewrites)}
    kept["shards"] = {name: asdict(shard) for name, shard in counts.shards.items()}
    kept["crc32c"] = checksum(canonical_json(kept).encode())
    with suppress(OSError):
        path.parent.make_folder()
        path.write(zlib.compress(json.dumps(kept).encode()))
