"""What is looked up in the tables, and where: sorted keys of each file, of large ones in a cache of this machine.

The table is the truth. Keys of a file are made from it where the cache has none that fit, and a file never changes. So
a look-up costs a few binary searches a file, and the files are few, for the table is compacted.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.hashing import content_hash
from storage.index.delta import DataFile
from storage.index.keys import Digests, Keys, digests
from storage.index.names import Names
from storage.index.table import Table, TableVersion
from storage.io.cache_folder import cache_folder
from storage.io.files import locked

logger = logging.getLogger(__name__)
KEY_FILE_ROWS = 1 << 17
"""From so many rows on, a file's keys are kept in the cache: fewer are made faster than they are found."""
UNUSED_AFTER = 7 * 24 * 3600.0
"""Seconds after which a file of the cache that the newest version has no use for goes."""
FORMAT = 1
AT_ONCE = 2
"""Files whose keys are mapped or made at once: more would take more memory."""


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
        words: dict[str, Names] = {}
        for rows in tables:
            if self.only_with is not None:
                rows = rows.filter(pc.is_valid(rows[self.only_with]))
            keys.append(digests(rows[name] for name in self.key))
            for name in self.values:
                values.setdefault(name, []).append(_numbers(rows[name], words.setdefault(name, Names())))
            if self.digest:
                of = digests(rows[name] for name in self.digest)
                values.setdefault("upper", []).append(of.upper)
                values.setdefault("lower", []).append(of.lower)
        joined, columns = Digests.joined(keys), {name: np.concatenate(parts) for name, parts in values.items()}
        if self.runs and len(joined):
            joined, columns = _runs(joined, *columns.items())
        return Keys.of(joined, columns, {name: found.values for name, found in words.items() if found}, self.unique)


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

    def prepare(self, version: TableVersion, names: Iterable[str] | None = None) -> None:
        """Have all that look-ups in a version read, or some of them, in memory or mapped: no file is asked for then."""
        for name in self.lookups if names is None else names:
            self._of_version(version, name)

    def make(self, file: DataFile) -> None:
        """Make a large file's keys for all look-ups, ahead of who asks."""
        if file.rows >= KEY_FILE_ROWS:
            with self._lock:
                for name in self.lookups:
                    self._load([file], name)

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
            self._load([file for file in version.entries if (file.name, name) not in self._keys], name)
            return sorted((self._keys[file.name, name] for file in version.entries), key=len, reverse=True)

    def _load(self, files: Sequence[DataFile], name: str) -> None:
        lookup = self.lookups[name]
        large = [file for file in files if file.rows >= KEY_FILE_ROWS]
        for file, keys in zip(large, self._cached(large, lookup) if large else (), strict=True):
            self._keys[file.name, name] = keys
        together = [other for other in self.lookups.values() if other.group == lookup.group]
        columns = list(dict.fromkeys(column for other in together for column in other.columns))
        for file in (file for file in files if file.rows < KEY_FILE_ROWS):
            rows = list(self.table.stream_file(file.name, columns))
            for other in together:
                self._keys[file.name, other.name] = other.keys_of(rows)

    def _cached(self, files: Sequence[DataFile], lookup: Lookup) -> list[Keys]:
        """Return the keys of large files from the cache, after making them there if need be."""
        folder = self._path(files[0], lookup.name).parent
        with ThreadPoolExecutor(AT_ONCE) as pool:
            found = list(pool.map(partial(self._mapped, lookup), files))
            if not (missing := [file for file, keys in zip(files, found, strict=True) if keys is None]):
                return [keys for keys in found if keys is not None]
            try:
                folder.mkdir(parents=True, exist_ok=True)
                with locked(folder / "lock"):
                    made = list(pool.map(partial(self._made, lookup), missing))
                    self._remove_unused(folder)
            except OSError as error:
                logger.warning("%s: keys are kept in memory, for it can't be written to: %s", folder, error)
                made = list(pool.map(partial(self._build, lookup), missing))
        of_missing = iter(made)
        return [next(of_missing) if keys is None else keys for keys in found]

    def _mapped(self, lookup: Lookup, file: DataFile) -> Keys | None:
        return Keys.load(self._path(file, lookup.name), _facts(file, lookup))

    def _made(self, lookup: Lookup, file: DataFile) -> Keys:
        """Make the keys of a file in the cache, unless another process did; return them."""
        if (keys := self._mapped(lookup, file)) is not None:
            return keys
        path = self._path(file, lookup.name)
        try:
            self._build(lookup, file).save(path, _facts(file, lookup))
        except OSError as error:
            logger.warning("%s: kept in memory, for there is no room or right to write it: %s", path, error)
        keys = self._mapped(lookup, file)
        return self._build(lookup, file) if keys is None else keys

    def _path(self, file: DataFile, name: str) -> Path:
        return cache_folder() / "index" / self._folder / f"{file.name}.{name}.keys"

    @cached_property
    def _folder(self) -> str:
        """Name of the table's folder in the cache; its id may be any text."""
        return content_hash(self.table.id.encode())

    def _build(self, lookup: Lookup, file: DataFile) -> Keys:
        return lookup.keys_of(self.table.stream_file(file.name, lookup.columns))

    def _remove_unused(self, folder: Path) -> None:
        there = {file.name for file in self.table.newest().entries}
        for path in folder.iterdir():
            with suppress(OSError):
                unused = path.suffix == ".keys" and path.name.partition(".parquet")[0] + ".parquet" not in there
                if unused and time.time() - path.stat().st_mtime > UNUSED_AFTER:
                    path.unlink()


def _facts(file: DataFile, lookup: Lookup) -> dict[str, Any]:
    """Return what the keys of a file were made from."""
    of_file = {"file": file.name, "size": file.size, "written": file.written}
    return {"format": FORMAT, **of_file, "key": list(lookup.key)}


def _numbers(column: pa.ChunkedArray, words: Names) -> np.ndarray:
    """Return a column as whole numbers; of strings their places among the words, to which new ones are added."""
    array = column.combine_chunks()
    if pa.types.is_integer(array.type):
        return np.asarray(array.to_numpy(zero_copy_only=False))
    return words.numbers(array if pa.types.is_dictionary(array.type) else array.dictionary_encode())


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
