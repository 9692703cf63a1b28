"""The encoding store: a folder of immutable Zarr groups, and a Delta table that says which of them count.

The folder is one of a disk or, as an ``s3://`` URL, a prefix of an object store.

    <root>/store.json               makes the folder a store
    <root>/index, <root>/rejects    Delta tables: a row a sample, a row a refused row; checksums/ of their logs' entries
    <root>/shards/<shard>/          a Zarr v3 group, written once, and manifest.json, the list of its files' checksums
        encodings/<fingerprint>     bfloat16 bits, uint16 (token, band * hidden), one caption after the other
        latents/<shape>             float16 (latent, channel, height, width)
    <root>/fingerprints/<fp>.json   what a fingerprint stands for
    <root>/writing/                 locks of the writers at work

A shard counts once a commit to the index names it. The index's version is the snapshot that a training run pins.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.hashing import Fingerprint, checksum
from storage.index.table import Snapshot, Table
from storage.io.files import exists, folder_size, list_folder, read_file, sync, write_file
from storage.io.paths import StorePath, place
from storage.locks.file import claims_of
from storage.schema import ENCODING_COLUMNS, INDEX, LATENT_COLUMNS, REJECTS, EncodingRef, LatentRef, Problem, ShardInfo

if TYPE_CHECKING:
    from storage.writing.writer import ShardWriter

FORMAT = 1
OURS = {"store.json", "index", "rejects", "shards", "fingerprints", "writing"}
"""What a store's folder holds; some of it before ``store.json``, where it is still being made."""
ROW_COLUMNS = ("fingerprint", "source_hash", "row")


class EncodingStore:
    """A store opened at a version, which it then shows for ever, or at the newest, which it follows."""

    def __init__(self, path: str | StorePath, version: int | None = None) -> None:
        self.path = place(path)
        self.claims = claims_of(self.path / "writing")
        self.index = Table(self.path / "index", INDEX)
        self.reject_table = Table(self.path / "rejects", REJECTS)
        self.pinned: Snapshot | None = None if version is None else self.index.snapshot(version)

    @classmethod
    def create(cls, path: str | StorePath) -> EncodingStore:
        """Makes an empty store; ValueError where the folder has other files in it, or is a store."""
        root = place(path)
        if is_store(root):
            raise ValueError(f"{root}: there is a store already")
        return cls._make(root)

    @classmethod
    def open(cls, path: str | StorePath, version: int | None = None) -> EncodingStore:
        """Opens a store; with `version`, as it was then and read-only.

        Raises:
            FileNotFoundError: there is no such folder.
            ValueError: the folder is no store, or the store has no such version.
        """
        root = place(path)
        if is_store(root):
            check_format(root)
            return cls(root, version)
        if isinstance(root, Path) and root.is_file():
            raise ValueError(f"{root}: expected an encoding store, found a file")
        if not list_folder(root) and not exists(root):
            raise FileNotFoundError(f"{root}: no such store")
        raise ValueError(f"{root}: expected an encoding store, found a folder without store.json")

    @classmethod
    def open_or_create(cls, path: str | StorePath) -> EncodingStore:
        """Opens a store, after making it if need be; several processes may do so at once."""
        root = place(path)
        return cls.open(root) if is_store(root) else cls._make(root)

    @classmethod
    def _make(cls, root: StorePath) -> EncodingStore:
        check_place(root)
        if isinstance(root, Path):
            for name in ("shards", "fingerprints", "writing"):
                (root / name).mkdir(parents=True, exist_ok=True)
        store = cls(root)
        store.index.create()
        store.reject_table.create()
        sync(root)
        write_file(root / "store.json", json.dumps({"format": FORMAT}).encode())
        sync(root.parent)
        return store

    @property
    def version(self) -> int:
        """The version shown: the pinned one, or the newest."""
        return self.snapshot().version

    def snapshot(self) -> Snapshot:
        """The index as this store shows it now."""
        return self.pinned or self.index.snapshot()

    # Fingerprints

    def register_fingerprint(self, description: dict[str, Any]) -> Fingerprint:
        """Stores what an encoder is, once, and returns the hash that stands for it."""
        fingerprint = Fingerprint.of(description)
        path = self.path / "fingerprints" / f"{fingerprint}.json"
        if not exists(path):
            write_file(path, json.dumps(description, indent=2, sort_keys=True, ensure_ascii=False).encode())
        return fingerprint

    def fingerprints(self) -> dict[str, dict[str, Any]]:
        """Descriptions by fingerprint."""
        paths = [path for path in list_folder(self.path / "fingerprints") if path.name.endswith(".json")]
        return {path.stem: json.loads(read_file(path)) for path in paths}

    # Look-ups

    def find_encodings(self, fingerprint: str, caption_hashes: Iterable[str]) -> dict[str, EncodingRef]:
        """Where the encodings of these captions lie; those that are not in the store are left out."""
        return self.encodings_in(self.snapshot(), fingerprint, caption_hashes)

    def encodings_in(self, snapshot: Snapshot, fingerprint: str, hashes: Iterable[str]) -> dict[str, EncodingRef]:
        """`find_encodings` in a given snapshot."""
        table = self.index.cached(snapshot, ENCODING_COLUMNS)
        mask = pc.and_(pc.equal(table["fingerprint"], fingerprint), _is_in(table["caption_hash"], hashes))
        rows = _columns(table.filter(mask))
        return {key: EncodingRef(*ref) for _, key, *ref in zip(*(rows[name] for name in ENCODING_COLUMNS), strict=True)}

    def find_latents(self, latent_keys: Iterable[str]) -> dict[str, LatentRef]:
        """Where these latents lie; those that are not in the store are left out."""
        return self.latents_in(self.snapshot(), latent_keys)

    def latents_in(self, snapshot: Snapshot, latent_keys: Iterable[str]) -> dict[str, LatentRef]:
        """`find_latents` in a given snapshot."""
        table = self.index.cached(snapshot, LATENT_COLUMNS)
        rows = _columns(table.filter(_is_in(table["latent_key"], latent_keys)))
        refs = zip(*(rows[name] for name in LATENT_COLUMNS), strict=True)
        return {key: LatentRef(shard, index, shape, crc) for key, shard, shape, index, crc in refs}

    def find_samples(self, fingerprint: str, source_hash: str) -> set[int]:
        """Rows of a source, known by its content's hash, that were committed or rejected under this encoder."""
        done = self.sample_rows_in(self.snapshot(), fingerprint, source_hash)
        return done | self.reject_rows_in(self.reject_table.snapshot(), fingerprint, source_hash)

    def sample_rows_in(self, snapshot: Snapshot, fingerprint: str, source_hash: str) -> set[int]:
        """Committed rows of a source in a given snapshot of the index."""
        return _rows_of(self.index.cached(snapshot, ROW_COLUMNS), fingerprint, source_hash)

    def reject_rows_in(
        self, snapshot: Snapshot, fingerprint: str, source_hash: str, besides: Iterable[str] = ()
    ) -> set[int]:
        """Rejected rows of a source in a given snapshot of the rejects; those of some reasons left out."""
        rejects = self.reject_table.cached(snapshot, (*ROW_COLUMNS, "reason"))
        return _rows_of(rejects.filter(pc.invert(_is_in(rejects["reason"], besides))), fingerprint, source_hash)

    # Reading

    def encoding(self, fingerprint: str, caption_hash: str) -> np.ndarray:
        """bfloat16 bits of one encoding, uint16 ``([band,] token, hidden)``.

        Raises:
            ValueError: it is not in the store, or its bytes are not those that were committed.
        """
        from storage.io.arrays import bands_of, open_array, read_rows

        ref = self.find_encodings(fingerprint, [caption_hash]).get(caption_hash)
        if ref is None:
            raise ValueError(f"{self.path}: no encoding of caption {caption_hash} under fingerprint {fingerprint}")
        array = open_array(self.path / "shards" / ref.shard, f"encodings/{fingerprint}")
        bits = read_rows(array, ref.first_token, ref.first_token + ref.token_count)
        check_row(bits, ref.checksum, f"{ref.shard}/encodings/{fingerprint}: caption {caption_hash}")
        return split_bands(bits, bands_of(array))

    def samples(self, fingerprint: str | None = None) -> pa.Table:
        """The index's rows of samples, ordered by source and row: the same order in any store of the same samples."""
        filters = pc.field("source").is_valid()
        if fingerprint is not None:
            filters &= pc.field("fingerprint") == fingerprint
        rows = self.index.read(self.snapshot(), INDEX.names, filters).cast(INDEX)
        order = ("source", "source_hash", "row", "caption_hash", "fingerprint")
        return rows.sort_by([(name, "ascending") for name in order])

    def rejects(self) -> pa.Table:
        """All refused rows but those that are samples by now, ordered by source and row."""
        rows = self.reject_table.read(self.reject_table.snapshot(), REJECTS.names).cast(REJECTS)
        if not len(rows):
            return rows
        of_row = [REJECTS.field(name) for name in ROW_COLUMNS]
        samples = self.index.read(self.snapshot(), ROW_COLUMNS, pc.field("source").is_valid()).cast(pa.schema(of_row))
        rows = rows.join(samples, list(ROW_COLUMNS), join_type="left anti")
        return rows.sort_by([(name, "ascending") for name in ("source", "source_hash", "row", "fingerprint")])

    # Writing

    def writer(self, shard_id: str | None = None, fingerprint: str | None = None) -> ShardWriter:
        """A writer of one new shard, to be used in a ``with`` block; see `storage.writing.writer`.

        Args:
            shard_id: its folder's name, never used before; one is made up where it is None.
            fingerprint: the encoder whose encodings `ShardWriter.add_encoding` takes, unless told otherwise there.
        """
        from storage.writing.writer import ShardWriter

        if self.pinned is not None:
            raise ValueError(f"{self.path}: opened at version {self.pinned.version}, which can't be written to")
        return ShardWriter(self, shard_id, fingerprint)

    # The store as a whole

    def info(self) -> dict[str, Any]:
        """Counts and sizes, as plain JSON values."""
        from storage.maintenance.summary import summarise

        return summarise(self)

    def shards(self) -> list[ShardInfo]:
        """The shards that this version names."""
        from storage.maintenance.summary import list_shards

        return list_shards(self)

    def verify(self, progress: Callable[[int, int], None] = lambda done, shards: None) -> list[Problem]:
        """Reads everything that this version names and every checksum of it; see `storage.maintenance.verify`."""
        from storage.maintenance.verify import verify

        return verify(self, progress)

    def size(self, *folders: str) -> int:
        """Bytes on the disk under some of its folders."""
        return sum(folder_size(self.path / folder) for folder in folders)


def is_store(root: StorePath) -> bool:
    """Whether a folder is a store, finished being made."""
    return exists(root / "store.json")


def check_place(root: StorePath) -> None:
    """ValueError where a path is neither a store nor free for a new one."""
    if is_store(root):
        check_format(root)
        return
    if isinstance(root, Path):
        there = next(path for path in (root, *root.absolute().parents) if path.exists())
        if not there.is_dir():
            raise ValueError(f"{root}: expected a folder for a store, found a file: {there}")
    names = {path.name for path in list_folder(root) if not path.name.endswith(".part")}
    if found := sorted(names - OURS):
        raise ValueError(f"{root}: expected an empty or new folder for a store, found other files there: {found[0]}")


def check_format(root: StorePath) -> None:
    """ValueError where a store is of a layout this version of the code does not know."""
    try:
        found = json.loads(read_file(root / "store.json"))["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{root / 'store.json'}: expected a store's format, found {error!r}") from error
    if found != FORMAT:
        raise ValueError(f"{root / 'store.json'}: expected format {FORMAT}, found {found!r}")


def check_row(row: np.ndarray | memoryview, expected: int, what: str) -> None:
    """ValueError where a row's bytes are not those that were committed."""
    if (found := checksum(row)) != expected:
        raise ValueError(f"{what}: expected checksum {expected:08x}, found {found:08x}: the store is damaged")


def split_bands(bits: np.ndarray, bands: int) -> np.ndarray:
    """Stored ``(token, band * hidden)`` to ``(band, token, hidden)``; one band as it is."""
    if bands == 1:
        return bits
    tokens, width = bits.shape
    return np.ascontiguousarray(bits.reshape(tokens, bands, width // bands).swapaxes(0, 1))


def _columns(table: pa.Table) -> dict[str, list[Any]]:
    return {name: table[name].to_pylist() for name in table.column_names}


def _is_in(column: pa.ChunkedArray, values: Iterable[str]) -> pa.ChunkedArray:
    return pc.is_in(column, value_set=pa.array(sorted(set(values)), pa.string()))


def _rows_of(table: pa.Table, fingerprint: str, source_hash: str) -> set[int]:
    mask = pc.and_(pc.equal(table["fingerprint"], fingerprint), pc.equal(table["source_hash"], source_hash))
    return set(table.filter(mask)["row"].to_pylist())
