"""Look-ups in the tables, through sorted keys of each file, of large ones in a cache of this machine.

The table is the truth. Keys of a file are made from it where the cache has none that fit, and a file never changes. So
a look-up costs a few binary searches a file, and the files are few, for the table is compacted.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache, cached_property, partial
from threading import Lock
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.index.data_file import Source
from storage.index.delta import DataFile
from storage.index.keys import Digests, Keys, digests, narrow
from storage.index.names import Names
from storage.index.table import Table, TableVersion
from storage.io.cache_folder import cache_folder
from storage.io.cached_arrays import cached, forget, is_cached

logger = logging.getLogger(__name__)
KEY_FILE_ROWS = 1 << 17
"""Number of rows from which on a file's keys are kept in the cache: fewer are made faster than they are found."""
CACHED = "index"
"""Name of the cache's folder of keys."""
FORMAT = 2
"""Version of the cached keys' layout, to be raised when they are made in another way."""
FEW, SEARCHES = 64, 4
"""Most keys that are searched for in the rows of large files without keys in the cache, and how many times: it takes a
fraction of the time of making those, and ends where all are found."""
AT_ONCE = 2
"""Number of files whose keys are mapped or made at once: more would take more memory."""


@dataclass(frozen=True, kw_only=True)
class Lookup:
    """A question to a table: which columns to look up, by which."""

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
    """Whether all rows of one key have the same values, or values of which any will do."""
    runs: bool = False
    """Whether the one value, a number, is kept as runs of neighbours: `values` and ``count``."""

    group: str = ""
    """Group of look-ups that are asked together: of a small file, their keys are made from one read."""

    @property
    def columns(self) -> list[str]:
        """Names of all columns that are read for the look-up."""
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
                numbers = _numbers(rows[name], words.setdefault(name, Names()))
                values.setdefault(name, []).append(narrow(numbers))
            if self.digest:
                of = digests(rows[name] for name in self.digest)
                values.setdefault("upper", []).append(of.upper)
                values.setdefault("lower", []).append(of.lower)
        joined, columns = Digests.joined(keys), {name: np.concatenate(parts) for name, parts in values.items()}
        if self.runs and len(joined):
            joined, columns = _runs(joined, *columns.items())
        return Keys.of(joined, columns, {name: found.values for name, found in words.items() if found}, self.unique)


@dataclass(frozen=True)
class LookupResult:
    """The result of a look-up."""

    which: np.ndarray
    """Index of the key, int64 ``(m,)``; one that is not `Lookup.unique` may be there several times."""
    values: dict[str, np.ndarray]
    """Values of each, by column; strings as objects."""


class KeyIndex:
    """The look-ups of a table; safe to use from several threads."""

    def __init__(self, table: Table, lookups: Sequence[Lookup]) -> None:
        self.table = table
        self.lookups = {lookup.name: lookup for lookup in lookups}
        self._lock = Lock()
        self._keys: dict[tuple[str, str], Keys] = {}
        self._searches = Counter[str]()

    def find(self, version: TableVersion, name: str, wanted: Digests, fingerprint: str | None = None) -> LookupResult:
        """Look keys up in a version; `fingerprint` is the column's value where all keys are of one, as they may be."""
        lookup = self.lookups[name]
        order = np.argsort(wanted.upper)
        left, parts = wanted[order], []
        for keys in self._parts(version, lookup, left, fingerprint) if len(left) else ():
            which, rows = keys.find(left)
            if not len(which):
                continue
            parts.append((order[which], keys, rows))
            if lookup.unique:
                rest = np.ones(len(left), bool)
                rest[which] = False
                left, order = left[rest], order[rest]
            if not len(left):
                break
        which = np.concatenate([part[0] for part in parts] or [np.empty(0, np.int64)])
        names = parts[0][1].values if parts else {}
        return LookupResult(
            which, {name: np.concatenate([_values(keys, name, rows) for _, keys, rows in parts]) for name in names}
        )

    def prepare(self, version: TableVersion, names: Iterable[str] | None = None) -> None:
        """Map, or bring into memory, all that some or all look-ups in a version read: no file is asked for then."""
        with self._lock:
            self._load(version.entries, [self.lookups[name] for name in (self.lookups if names is None else names)])

    def make(self, file: DataFile) -> None:
        """Make a large file's keys for all look-ups, ahead of who asks."""
        if file.rows >= KEY_FILE_ROWS:
            with self._lock:
                self._load([file], list(self.lookups.values()))

    def forget(self, files: Iterable[DataFile]) -> None:
        """Take the keys of files that others took the place of out of the cache; who has them open keeps them."""
        for file in files:
            for lookup in self.lookups.values():
                forget(CACHED, self._facts(file, lookup))

    def _parts(self, version: TableVersion, lookup: Lookup, wanted: Digests, fingerprint: str | None) -> Iterator[Keys]:
        """Yield the keys of all files, those of most rows first.

        Where few are wanted, of large files without keys in the cache those alone that are found.
        """
        with self._lock:
            searched = self._to_search(version, lookup, len(wanted))
            there = {file.name for file in version.entries} - {file.name for file in searched}
            if len(self._keys) > 2 * len(self.lookups) * max(64, len(version.entries)):
                self._keys = {key: keys for key, keys in self._keys.items() if key[0] in there}
            self._load([file for file in version.entries if file.name in there], [lookup])
            known = sorted((self._keys[name, lookup.name] for name in there), key=len, reverse=True)
        yield from known
        for file in searched:
            yield from self._searched(lookup, file, wanted, fingerprint)

    def _to_search(self, version: TableVersion, lookup: Lookup, wanted: int) -> list[DataFile]:
        """Return the files to search through, the oldest first, for that has an encoder's first rows."""
        if not lookup.unique or wanted > FEW or self._searches[lookup.name] >= SEARCHES:
            return []
        unknown = (file for file in version.entries if (file.name, lookup.name) not in self._keys)
        found = [
            file for file in unknown if file.rows >= KEY_FILE_ROWS and not is_cached(CACHED, self._facts(file, lookup))
        ]
        self._searches[lookup.name] += bool(found)
        return sorted(found, key=lambda file: (file.written, file.name))

    def _searched(self, lookup: Lookup, file: DataFile, wanted: Digests, fingerprint: str | None) -> Iterator[Keys]:
        upper = np.sort(wanted.upper)

        def matches(rows: pa.Table) -> np.ndarray:
            return np.isin(digests(rows[name] for name in lookup.key).upper, upper)

        for rows in self.table.search_file(file.name, lookup.key, lookup.columns, matches, fingerprint):
            yield lookup.keys_of([rows])

    def _load(self, files: Iterable[DataFile], lookups: Sequence[Lookup]) -> None:
        """Bring the keys of files into memory, or map them, where they are not yet."""
        missing = [
            (file, [lookup for lookup in lookups if (file.name, lookup.name) not in self._keys]) for file in files
        ]
        large = [(file, those) for file, those in missing if those and file.rows >= KEY_FILE_ROWS]
        if large:
            at_once = 1 if self.table.folder.is_remote else AT_ONCE  # a remote one's bytes are in memory meanwhile
            with ThreadPoolExecutor(at_once) as pool:
                for found in pool.map(self._of_large, large):
                    self._keys |= found
        small = [
            (file, group)
            for file, those in missing
            if file.rows < KEY_FILE_ROWS
            for group in dict.fromkeys(lookup.group for lookup in those)
        ]
        if small:
            with ThreadPoolExecutor(self.table.read_at_once([file.name for file, _ in small])) as pool:
                for found in pool.map(self._of_small, small):
                    self._keys |= found

    def _of_small(self, asked: tuple[DataFile, str]) -> dict[tuple[str, str], Keys]:
        """Return a file's keys for all look-ups of a group, made from one reading of it."""
        file, group = asked
        together = [lookup for lookup in self.lookups.values() if lookup.group == group]
        columns = list(dict.fromkeys(column for lookup in together for column in lookup.columns))
        rows = list(self.table.stream_file(file.name, columns))
        return {(file.name, lookup.name): lookup.keys_of(rows) for lookup in together}

    def _of_large(self, asked: tuple[DataFile, Sequence[Lookup]]) -> dict[tuple[str, str], Keys]:
        """Return a large file's keys from the cache; what is not there is made, after one fetch of the file."""
        file, lookups = asked
        source = cache(partial(self.table.source_of, file.name))
        return {(file.name, lookup.name): self._cached(lookup, file, source) for lookup in lookups}

    def _cached(self, lookup: Lookup, file: DataFile, source: Callable[[], Source]) -> Keys:
        def build() -> Keys:
            return lookup.keys_of(self.table.stream_file(file.name, lookup.columns, source=source()))

        try:
            return Keys.mapped(cached(CACHED, self._facts(file, lookup), lambda folder: build().write(folder)))
        except OSError as error:
            logger.warning("%s: keys are kept in memory, for they can't be written: %s", cache_folder(), error)
            return build()

    def _facts(self, file: DataFile, lookup: Lookup) -> dict[str, Any]:
        """Return the facts that decide a file's keys; a copy of the store may have a file of its name and time."""
        of_file = {"table": self._table_id, "file": file.name, "size": file.size, "written": file.written}
        return {"format": FORMAT, **of_file, **asdict(lookup)}

    @cached_property
    def _table_id(self) -> str:
        return self.table.id


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
    keys, first, last = _joined(keys, values, values)  # rows come in order, as a rule: few are left to sort
    order = np.lexsort((first, keys.lower, keys.upper))
    keys, first, last = _joined(keys[order], first[order], last[order])
    return keys, {name: first, "count": (last - first) + 1}


def _joined(keys: Digests, first: np.ndarray, last: np.ndarray) -> tuple[Digests, np.ndarray, np.ndarray]:
    """Return runs, with those of one key joined that come one after the other and follow one another."""
    goes_on = (keys.upper[1:] == keys.upper[:-1]) & (keys.lower[1:] == keys.lower[:-1])
    goes_on[goes_on] = first[1:][goes_on].astype(np.int64) - last[:-1][goes_on] == 1
    begins = np.flatnonzero(np.append(True, ~goes_on))
    return keys[begins], first[begins], last[np.append(begins[1:], len(last)) - 1]
