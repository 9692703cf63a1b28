"""What is looked up in the tables, and where: sorted keys of each file, of large ones in a cache of this machine.

The table is the truth. Keys of a file are made from it where the cache has none that fit, and a file never changes. So
a look-up costs a few binary searches a file, and the files are few, for the table is compacted.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from threading import Lock

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.hashing import content_hash
from storage.index.delta import DataFile
from storage.index.keys import Digests, Keys, digests
from storage.index.table import Table, TableVersion
from storage.io.cache_folder import cache_folder
from storage.io.files import locked

logger = logging.getLogger(__name__)
KEY_FILE_ROWS = 1 << 17
"""From so many rows on, a file's keys are kept in the cache: fewer are made faster than they are found."""
UNUSED_AFTER = 7 * 24 * 3600.0
"""Seconds after which a file of the cache that the newest version has no use for goes."""
FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Lookup:
    """What is asked of a table, by which columns."""

    name: str
    key: tuple[str, ...]
    """Columns of hashes."""
    values: tuple[str, ...] = ()
    """Columns of whole numbers, or of strings of few values."""
    digest: tuple[str, ...] = ()
    """Columns whose common key is a value, too: ``upper`` and ``lower``."""
    only_with: str | None = None
    """A column that is null in the rows to leave out."""
    unique: bool = True
    """Whether the rows of one key have the same values, or values of which any does."""
    runs: bool = False
    """Whether the one value, a number, is kept as runs of neighbours: `values` and ``count``."""

    group: str = ""
    """Of a small file, the keys of one group's look-ups are made from one read: they are asked together."""

    @property
    def columns(self) -> list[str]:
        """All that are read for it."""
        names = dict.fromkeys((*self.key, *self.values, *self.digest, *([self.only_with] if self.only_with else [])))
        return list(names)

    def keys_of(self, tables: Iterable[pa.Table]) -> Keys:
        """Return the sorted keys of rows, which come a few at a time."""
        keys: list[Digests] = []
        values: dict[str, list[np.ndarray]] = {}
        words: dict[str, dict[str, int]] = {}
        for rows in tables:
            if self.only_with is not None:
                rows = rows.filter(pc.is_valid(rows[self.only_with]))
            keys.append(digests(rows[name] for name in self.key))
            for name in self.values:
                values.setdefault(name, []).append(_numbers(rows[name], words.setdefault(name, {})))
            if self.digest:
                of = digests(rows[name] for name in self.digest)
                values.setdefault("upper", []).append(of.upper)
                values.setdefault("lower", []).append(of.lower)
        joined, columns = Digests.joined(keys), {name: np.concatenate(parts) for name, parts in values.items()}
        if self.runs and len(joined):
            joined, columns = _runs(joined, *columns.items())
        return Keys.of(joined, columns, {name: list(found) for name, found in words.items() if found}, self.unique)


@dataclass(frozen=True)
class Found:
    """What a look-up found."""

    which: np.ndarray
    """Which of the keys, int64 ``(m,)``; one that is not `Lookup.unique` may be there several times."""
    values: dict[str, np.ndarray]
    """Of each; strings as objects."""


class KeyIndex:
    """The look-ups of a table; safe to use from several threads."""

    def __init__(self, table: Table, lookups: Sequence[Lookup]) -> None:
        self.table = table
        self.lookups = {lookup.name: lookup for lookup in lookups}
        self._lock = Lock()
        self._keys: dict[tuple[str, str], Keys] = {}

    def find(self, version: TableVersion, name: str, wanted: Digests) -> Found:
        """Look keys up in a version."""
        lookup = self.lookups[name]
        order = np.argsort(wanted.upper)
        left, parts = wanted[order], []
        for keys in self._of_version(version, name) if len(left) else ():
            if not len(left):
                break
            which, rows = keys.find(left)
            if not len(which):
                continue
            parts.append((order[which], keys, rows))
            if lookup.unique:
                rest = np.ones(len(left), bool)
                rest[which] = False
                left, order = left[rest], order[rest]
        which = np.concatenate([part[0] for part in parts] or [np.empty(0, np.int64)])
        names = parts[0][1].values if parts else {}
        return Found(
            which, {name: np.concatenate([_values(keys, name, rows) for _, keys, rows in parts]) for name in names}
        )

    def prepare(self, version: TableVersion) -> None:
        """Have all that look-ups in a version read in memory or mapped: no file is asked for afterwards."""
        for name in self.lookups:
            self._of_version(version, name)

    def make(self, file: DataFile) -> None:
        """Make a large file's keys for all look-ups, ahead of who asks."""
        if file.rows >= KEY_FILE_ROWS:
            with self._lock:
                for name in self.lookups:
                    self._load(file, name)

    def forget(self, files: Iterable[DataFile]) -> None:
        """Take the keys of files that others took the place of out of the cache; who has them open keeps them."""
        for file in files:
            for name in self.lookups:
                with suppress(OSError):
                    self._path(file, name).unlink(missing_ok=True)

    def _of_version(self, version: TableVersion, name: str) -> list[Keys]:
        """Return the keys of all files, those of most rows first."""
        with self._lock:
            there = {file.name for file in version.entries}
            if len(self._keys) > 2 * len(self.lookups) * max(64, len(there)):
                self._keys = {key: keys for key, keys in self._keys.items() if key[0] in there}
            for file in version.entries:
                if (file.name, name) not in self._keys:
                    self._load(file, name)
            return sorted((self._keys[file.name, name] for file in version.entries), key=len, reverse=True)

    def _load(self, file: DataFile, name: str) -> None:
        if file.rows >= KEY_FILE_ROWS:
            self._keys[file.name, name] = self._cached(file, self.lookups[name])
            return
        together = [lookup for lookup in self.lookups.values() if lookup.group == self.lookups[name].group]
        columns = list(dict.fromkeys(column for lookup in together for column in lookup.columns))
        rows = list(self.table.stream_file(file.name, columns))
        for lookup in together:
            self._keys[file.name, lookup.name] = lookup.keys_of(rows)

    def _cached(self, file: DataFile, lookup: Lookup) -> Keys:
        """Return the keys of a large file from the cache, after making them there if need be."""
        facts = {
            "format": FORMAT,
            "file": file.name,
            "size": file.size,
            "written": file.written,
            "key": list(lookup.key),
        }
        path = self._path(file, lookup.name)
        if (keys := Keys.load(path, facts)) is not None:
            return keys
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with locked(path.with_name("lock")):
                if (keys := Keys.load(path, facts)) is None:
                    self._build(file, lookup).save(path, facts)
                    self._remove_unused(path.parent)
                    keys = Keys.load(path, facts)
        except OSError as error:
            logger.warning("%s: kept in memory, for there is no room or right to write it: %s", path, error)
            keys = None
        return keys if keys is not None else self._build(file, lookup)

    def _path(self, file: DataFile, name: str) -> Path:
        return cache_folder() / "index" / self._folder / f"{file.name}.{name}.keys"

    @cached_property
    def _folder(self) -> str:
        """Name of the table's folder in the cache; its id may be any text."""
        return content_hash(self.table.id.encode())

    def _build(self, file: DataFile, lookup: Lookup) -> Keys:
        return lookup.keys_of(self.table.stream_file(file.name, lookup.columns))

    def _remove_unused(self, folder: Path) -> None:
        there = {file.name for file in self.table.newest().entries}
        for path in folder.iterdir():
            with suppress(OSError):
                unused = path.suffix == ".keys" and path.name.partition(".parquet")[0] + ".parquet" not in there
                if unused and time.time() - path.stat().st_mtime > UNUSED_AFTER:
                    path.unlink()


def _numbers(column: pa.ChunkedArray, words: dict[str, int]) -> np.ndarray:
    """Return a column as whole numbers; of strings their places among the words, to which new ones are added."""
    array = column.combine_chunks()
    if pa.types.is_integer(array.type):
        return np.asarray(array.to_numpy(zero_copy_only=False))
    if not pa.types.is_dictionary(array.type):
        array = array.dictionary_encode()
    places = [words.setdefault(word, len(words)) for word in array.dictionary.to_pylist()]
    return np.array(places, np.int64)[array.indices.to_numpy(zero_copy_only=False)]


def _values(keys: Keys, name: str, rows: np.ndarray) -> np.ndarray:
    found = keys.values[name][rows]
    return np.array(keys.words[name], object)[found] if name in keys.words else found


def _runs(keys: Digests, value: tuple[str, np.ndarray]) -> tuple[Digests, dict[str, np.ndarray]]:
    """Return a key and the first value of each run of values that follow one another, and how many they are."""
    name, values = value
    order = np.lexsort((values, keys.lower, keys.upper))
    keys, values = keys[order], values[order]
    goes_on = (keys.upper[1:] == keys.upper[:-1]) & (keys.lower[1:] == keys.lower[:-1]) & (np.diff(values) == 1)
    first = np.flatnonzero(np.concatenate([[True], ~goes_on])) if len(values) else np.empty(0, np.int64)
    return keys[first], {name: values[first], "count": np.diff(np.append(first, len(values)))}
