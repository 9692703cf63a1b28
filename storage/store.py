"""The encoding store: a folder of immutable Zarr groups, and a Delta table that says which of them count.

The folder is one of a disk or, as an ``s3://`` URL, a prefix of an object store.

    <root>/store.json               makes the folder a store, and says which one it is
    <root>/index, <root>/rejects    Delta tables: a row a sample, a row a refused row; checksums/ of their logs' entries
    <root>/repeats                  Delta table: a row a row of the data that holds what a sample holds
    <root>/data/                    which sources data sets have and had; see `storage.maintenance.data_sets`
    <root>/shards/<shard>/          a Zarr v3 group, written once, and manifest.json, the list of its files' checksums
        encodings/<fingerprint>     bfloat16 bits, uint16 (token, band * hidden), one caption after the other
        latents/<shape>             float16 (latent, channel, height, width); (latent, 2, channel, …) with mirror images
    <root>/fingerprints/<fp>.json   what a fingerprint stands for
    <root>/writing/                 locks of the writers at work
    <root>/turns/                   mutexes of jobs that one process at a time does

A shard counts once a commit to the index names it. The index's version is the snapshot that a training run pins.
"""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from storage.hashing import Fingerprint
from storage.index.lookup import KeyIndex
from storage.index.snapshot import OF_INDEX, OF_REJECTS, OF_REPEATS, Snapshot
from storage.index.table import Table, TableVersion
from storage.io.names import shard_folder
from storage.io.paths import StorePath, store_path, tree_size
from storage.locks.select import select_locks
from storage.schema import INDEX, REJECTS, REPEATS

FORMAT = 1
OURS = {"store.json", "index", "rejects", "repeats", "shards", "fingerprints", "writing"}
"""Names of what a store's folder holds; some are there before ``store.json``, where a store is still being made."""


class EncodingStore:
    """A store opened at a version, which it then shows for ever, or at the newest, which it follows.

    `storage.writing.writer.ShardWriter` writes to it, `storage.reading.dataset.EncodingDataset` reads batches from it,
    and the functions of `storage.maintenance` count, check, repair, clear and export it.
    """

    def __init__(self, path: str | Path | StorePath, version: int | None = None) -> None:
        self.path = store_path(path)
        self.locks = select_locks(self.path / "writing")
        self.index = Table(self.path / "index", INDEX, counts_shards=True)
        self.reject_table = Table(self.path / "rejects", REJECTS)
        self.repeat_table = Table(self.path / "repeats", REPEATS)
        self.index_keys = KeyIndex(self.index, OF_INDEX)
        self.reject_keys = KeyIndex(self.reject_table, OF_REJECTS)
        self.repeat_keys = KeyIndex(self.repeat_table, OF_REPEATS)
        self._up_to_date = False
        self.pinned: TableVersion | None = None if version is None else self.index.at(version)

    @classmethod
    def create(cls, path: str | Path | StorePath) -> EncodingStore:
        """Make an empty store; ValueError where the folder has other files in it, or is a store."""
        root = store_path(path)
        if is_store(root):
            raise ValueError(f"{root}: there is a store already")
        return cls._make(root)

    @classmethod
    def open(cls, path: str | Path | StorePath, version: int | None = None) -> EncodingStore:
        """Open a store; with `version`, as it was then and read-only.

        Raises:
            FileNotFoundError: there is no such folder.
            ValueError: the folder is no store, or the store has no such version.
        """
        root = store_path(path)
        if is_store(root):
            check_format(root)
            return cls(root, version)
        if root.is_file():
            raise ValueError(f"{root}: expected an encoding store, found a file")
        if not root.children() and not root.exists():
            raise FileNotFoundError(f"{root}: no such store")
        raise ValueError(f"{root}: expected an encoding store, found a folder without store.json")

    @classmethod
    def open_or_create(cls, path: str | Path | StorePath) -> EncodingStore:
        """Open a store, after making it if need be; several processes may do so at once."""
        root = store_path(path)
        return cls.open(root) if is_store(root) else cls._make(root)

    @classmethod
    def _make(cls, root: StorePath) -> EncodingStore:
        check_store_path(root)
        for name in ("shards", "fingerprints", "writing"):
            (root / name).make_folder()
        store = cls(root)
        store.index.create()
        store.reject_table.create()
        store.bring_up_to_date()
        root.parent.sync()
        return store

    def bring_up_to_date(self) -> None:
        """Give a new store, or one that an earlier version of the program made, what it lacks; any writer may do it."""
        if is_store(self.path) and self.is_up_to_date:
            return
        self.repeat_table.create()
        self.path.sync()
        (self.path / "store.json").write(json.dumps({"format": FORMAT, "id": self.index.id}).encode())

    @property
    def is_up_to_date(self) -> bool:
        """Whether the store lacks nothing that `bring_up_to_date` gives."""
        self._up_to_date = self._up_to_date or "id" in read_format(self.path)
        return self._up_to_date

    @cached_property
    def id(self) -> str:
        """A random UUID, the same wherever the store is moved or copied to, and another one's where it is made anew.

        It is that of the index's table, so that all writers that bring an old store up to date write the same one.
        """
        return str(read_format(self.path).get("id") or self.index.id)

    @property
    def tables(self) -> list[Table]:
        """The tables that there are."""
        return [self.index, self.reject_table, *[self.repeat_table] * self.is_up_to_date]

    @property
    def key_indexes(self) -> list[KeyIndex]:
        """The look-ups of its tables."""
        return [self.index_keys, self.reject_keys, *[self.repeat_keys] * self.is_up_to_date]

    @property
    def version(self) -> int:
        """The version shown: the pinned one, or the newest."""
        return self.snapshot().version

    def snapshot(self) -> Snapshot:
        """Return the version that this store shows now, with its look-ups."""
        return self.snapshot_at(self.pinned or self.index.newest())

    def snapshot_at(self, version: TableVersion) -> Snapshot:
        """Return a version of the index with its look-ups."""
        repeats = self.repeat_keys if self.is_up_to_date else None
        return Snapshot(self.index_keys, self.reject_keys, repeats, version)

    def register_fingerprint(self, description: dict[str, Any]) -> Fingerprint:
        """Store what an encoder is, once, and return the hash that stands for it."""
        fingerprint = Fingerprint.of(description)
        path = self.path / "fingerprints" / f"{fingerprint}.json"
        if not path.exists():
            path.write(json.dumps(description, indent=2, sort_keys=True, ensure_ascii=False).encode())
        return fingerprint

    def fingerprints(self) -> dict[str, dict[str, Any]]:
        """Return descriptions by fingerprint; ValueError naming the file of one that is damaged."""
        paths = [path for path in (self.path / "fingerprints").children() if path.name.endswith(".json")]
        return {path.stem: read_description(path) for path in paths}

    def encoding(self, fingerprint: str, caption_hash: str) -> np.ndarray:
        """Return the bfloat16 bits of one encoding, uint16 ``([band,] token, hidden)``.

        Raises:
            ValueError: it is not in the store, or its bytes are not those that were committed.
        """
        from storage.io.arrays import bands_of, check_row, open_array, read_rows, split_bands  # Zarr takes its time

        ref = self.snapshot().encodings(fingerprint, [caption_hash]).get(caption_hash)
        if ref is None:
            raise ValueError(f"{self.path}: no encoding of caption {caption_hash} under fingerprint {fingerprint}")
        array = open_array(shard_folder(self.path, ref.shard), f"encodings/{fingerprint}")
        bits = read_rows(array, ref.first_token, ref.first_token + ref.token_count)
        check_row(bits, ref.checksum, f"{ref.shard}/encodings/{fingerprint}: caption {caption_hash}")
        return split_bands(bits, bands_of(array))

    def samples(self, fingerprint: str | None = None) -> pa.Table:
        """Return the samples of the version shown; see `Snapshot.samples`."""
        return self.snapshot().samples(fingerprint)

    def rejects(self) -> pa.Table:
        """Return the refused rows that are no samples by now; see `Snapshot.rejects`."""
        return self.snapshot().rejects()

    def size(self, *folders: str) -> int:
        """Return the bytes under some of its folders."""
        return sum(tree_size(self.path / folder) for folder in folders)


def read_description(path: StorePath) -> dict[str, Any]:
    """Return the description of a fingerprint; ValueError naming its file where that is none."""
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: expected JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path}: expected a JSON object, found {type(found).__name__}")
    return found


def is_store(root: StorePath) -> bool:
    """Return whether a folder is a store, finished being made."""
    return (root / "store.json").exists()


def check_store_path(root: StorePath) -> None:
    """Raise ValueError where a path is neither a store nor free for a new one."""
    if is_store(root):
        check_format(root)
        return
    if (file := root.file_in_the_way()) is not None:
        raise ValueError(f"{root}: expected a folder for a store, found a file: {file}")
    names = {path.name for path in root.children() if not path.name.endswith(".part")}
    if found := sorted(names - OURS):
        raise ValueError(f"{root}: expected an empty or new folder for a store, found other files there: {found[0]}")


def check_format(root: StorePath) -> None:
    """Raise ValueError where a store is of a layout this version of the code does not know."""
    if (found := read_format(root)["format"]) != FORMAT:
        raise ValueError(f"{root / 'store.json'}: expected format {FORMAT}, found {found!r}")


def read_format(root: StorePath) -> dict[str, Any]:
    """Return the facts that make a folder a store: format and, but for old ones, id; ValueError without them."""
    try:
        found: dict[str, Any] = json.loads((root / "store.json").read_bytes())
        found["format"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{root / 'store.json'}: expected a store's format, found {error!r}") from error
    return found
