"""Samples sorted by source and row with little memory: each is written to where its neighbours will lie, then sorted.

A first look counts the samples of each source and of each range of its rows. So it is known before the second where
each such bucket begins in the sorted file. Small buckets are sorted together, and none is large: memory is flat.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from storage.index.names import Names
from storage.io.grouping import places_by_number

ROW_BITS = 20
GROUP_ROWS = 1 << ROW_BITS
"""Number of samples that are sorted together, about; and rows of a source that are a bucket."""
COLUMNS = ("source", "source_hash", "row")


class SourceCount:
    """Counts of each source's samples, from a first look at all rows."""

    def __init__(self, row_bits: int | None = None) -> None:
        """Count for groups of some ``2 ** row_bits`` samples; of `GROUP_ROWS` where it is None."""
        self.row_bits = ROW_BITS if row_bits is None else row_bits
        self.names, self.hashes = Names(), Names()
        self._buckets = Counter[tuple[int, int, int]]()

    def add(self, batch: pa.RecordBatch) -> None:
        """Count a batch with `COLUMNS`."""
        source = self.names.numbers(batch["source"]), self.hashes.numbers(batch["source_hash"])
        keys = np.stack([*source, batch["row"].to_numpy() >> self.row_bits])
        if (keys == keys[:, :1]).all():
            self._buckets[_bucket(keys[:, 0].tolist())] += batch.num_rows
            return
        for key, count in zip(*_distinct(keys), strict=True):
            self._buckets[_bucket(key)] += count

    def layout(self) -> Layout:
        """Return where the sorted samples will lie."""
        names, hashes = self.names.values, self.hashes.values
        pairs = sorted({key[:2] for key in self._buckets}, key=lambda pair: (names[pair[0]], hashes[pair[1]]))
        rank = {pair: number for number, pair in enumerate(pairs)}
        buckets = sorted((rank[name, of], part, count) for (name, of, part), count in self._buckets.items())
        sources, parts, counts = np.array(buckets, np.int64).reshape(-1, 3).T
        ends = np.cumsum(counts)
        per_source = np.bincount(sources, counts, len(pairs)).astype(np.int64)
        opens = np.flatnonzero(np.diff((ends - 1) >> self.row_bits, prepend=-1))
        codes = np.array([name * len(hashes) + of for name, of in pairs], np.int64)
        order = np.argsort(codes)
        return Layout(
            source_count=self,
            codes=codes[order],
            ranks=order,
            sources=[names[name] for name, _ in pairs],
            ends=np.cumsum(per_source),
            first_keys=_bucket_key(sources[opens], parts[opens]),
            starts=np.append(0, ends)[[*opens, len(counts)]],
        )


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Layout of sorted samples: where each source's lie."""

    source_count: SourceCount
    codes: np.ndarray
    """int64 ``(source,)``, what stands for each source's name and hash, sorted."""
    ranks: np.ndarray
    """int64 ``(source,)``, the number of each of those sources, by name and hash."""
    sources: list[str]
    """Name of each source."""
    ends: np.ndarray
    """End of each source's samples, int64 ``(source,)``."""
    first_keys: np.ndarray
    """int64 ``(group,)``, which bucket each group begins with."""
    starts: np.ndarray
    """int64 ``(group + 1,)``, where each group begins, and the number of samples."""

    def __len__(self) -> int:
        return int(self.starts[-1])

    def source_of(self, batch: pa.RecordBatch) -> np.ndarray:
        """Return the number of each row's source, int64 ``(n,)``."""
        counted = self.source_count
        names, hashes = counted.names.numbers(batch["source"]), counted.hashes.numbers(batch["source_hash"])
        return self.ranks[np.searchsorted(self.codes, names * len(counted.hashes) + hashes)]

    def groups_of(self, source: np.ndarray, row: np.ndarray) -> np.ndarray:
        """Return the group that each sample is sorted in, int64 ``(n,)``."""
        return np.searchsorted(self.first_keys, _bucket_key(source, row >> self.source_count.row_bits), "right") - 1


class Sorter:
    """Writes samples in any order into an array, and sorts them there by ``source``, ``row`` and ``hash``."""

    def __init__(self, layout: Layout, out: np.ndarray) -> None:
        self.layout = layout
        self.out = out
        self._filled = layout.starts[:-1].copy()

    def add(self, rows: np.ndarray) -> None:
        """Write rows of `out`'s dtype to their groups."""
        groups = self.layout.groups_of(rows["source"].astype(np.int64), rows["row"])
        if (groups == groups[0]).all():
            self._write(int(groups[0]), rows)
            return
        for group, places in places_by_number(groups):
            self._write(group, rows[places])

    def sort(self) -> None:
        """Sort each group."""
        assert (self._filled == self.layout.starts[1:]).all()
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(self._sort_group, self.layout.starts[:-1].tolist(), self.layout.starts[1:].tolist()))

    def _write(self, group: int, rows: np.ndarray) -> None:
        start = self._filled[group]
        self.out[start : start + len(rows)] = rows
        self._filled[group] = start + len(rows)

    def _sort_group(self, start: int, stop: int) -> None:
        rows = self.out[start:stop]
        source, row = rows["source"].astype(np.int64), rows["row"].copy()
        if ((source[1:] > source[:-1]) | ((source[1:] == source[:-1]) & (row[1:] > row[:-1]))).all():
            return  # rows that were encoded in their source's order lie so already
        order = _order(source, row)
        source, row = source[order], row[order]
        if ((source[1:] == source[:-1]) & (row[1:] == row[:-1])).any():  # several captions of a row
            order = np.lexsort((rows["hash"][:, 1], rows["hash"][:, 0], rows["row"], rows["source"]))
        if (order[1:] < order[:-1]).any():
            self.out[start:stop] = rows[order]


def _order(source: np.ndarray, row: np.ndarray) -> np.ndarray:
    """Return the order by source and row; a single key sorts fastest, where both fit into one."""
    first, rows = int(source.min()), int(row.max()) + 1
    if (int(source.max()) - first + 1) * rows < 1 << 62:
        return np.argsort((source - first) * rows + row)
    return np.lexsort((row, source))


def _bucket(numbers: Sequence[int]) -> tuple[int, int, int]:
    name, of, part = numbers
    return name, of, part


def _bucket_key(source: np.ndarray, part: np.ndarray) -> np.ndarray:
    return (source << 32) + part


def _distinct(keys: np.ndarray) -> tuple[list[list[int]], list[int]]:
    """Return the distinct columns of small numbers ``(3, n)``, and how often each comes."""
    sizes = keys.max(axis=1) + 1
    found, counts = np.unique(np.ravel_multi_index(tuple(keys), tuple(sizes)), return_counts=True)
    return np.stack(np.unravel_index(found, tuple(sizes)), axis=1).tolist(), counts.tolist()


def in_parts(rows: np.ndarray) -> Iterable[tuple[int, np.ndarray]]:
    """Yield an array in parts that fit into memory, with where each begins."""
    for start in range(0, len(rows), GROUP_ROWS):
        yield start, rows[start : start + GROUP_ROWS]
