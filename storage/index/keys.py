"""Sorted keys of a file's rows with what is asked of them: arrays in memory, or mapped from a file of a local cache.

A key is 128 bits, from one to three hashes. Its upper half is what the arrays are sorted by. Its lower half is kept
mixed with the row's values, so that a bit that flipped in either makes the key another one, never the values wrong.
"""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from storage.hashing import checksum
from storage.index.hash_numbers import hash_numbers

ODD = np.array(
    [0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93, 0xA0761D6478BD642F],
    np.uint64,
)
"""Multipliers: what they multiply can be had back, and no two sums of two are alike but by chance."""
FILTER = "filter"
"""Name of a file's column of bits."""
FACTS = b"llmdiff"
"""Name of what a file says of itself, in its schema's metadata."""


@dataclass(frozen=True)
class Digests:
    """Keys, as two halves, uint64 ``(n,)`` each."""

    upper: np.ndarray
    lower: np.ndarray

    @classmethod
    def joined(cls, parts: Sequence[Digests]) -> Digests:
        """Return the keys of several, one after the other."""
        nothing = np.empty(0, np.uint64)
        upper = np.concatenate([nothing, *(part.upper for part in parts)])
        return cls(upper, np.concatenate([nothing, *(part.lower for part in parts)]))

    def __len__(self) -> int:
        return len(self.upper)

    def __getitem__(self, which: np.ndarray) -> Digests:
        return Digests(self.upper[which], self.lower[which])


def digests(columns: Iterable[pa.Array | pa.ChunkedArray]) -> Digests:
    """Return the keys of rows: of one to three columns of hashes or other strings, null where there is none."""
    parts = [hash_numbers(column).astype(np.uint64).T for column in columns]
    upper, lower = (sum((part[i] * ODD[k + i] for k, part in enumerate(parts)), np.uint64(0)) for i in range(2))
    return Digests(np.asarray(upper), np.asarray(lower))


@dataclass(frozen=True)
class Keys:
    """Keys of rows, sorted, and the rows' values."""

    upper: np.ndarray
    """uint64 ``(n,)``, ascending."""
    sealed: np.ndarray
    """uint64 ``(n,)``: the lower halves, mixed with the values."""
    values: dict[str, np.ndarray]
    """Whole numbers ``(n,)`` each; of a column of strings their places in `words`."""
    words: dict[str, list[str]] = field(default_factory=dict)
    filter: np.ndarray | None = None
    """uint8 ``(n,)``, of a mapped file: a bit for each lower half, so that most keys that are not there are told by one
    look each; one in nine of them is not."""

    def __len__(self) -> int:
        return len(self.upper)

    @classmethod
    def of(cls, keys: Digests, values: Mapping[str, np.ndarray], words: dict[str, list[str]], unique: bool) -> Keys:
        """Sort keys and values; with `unique`, rows of one key are kept once, whichever comes first."""
        order = np.argsort(keys.upper, kind="stable")
        ordered = keys[order]
        if unique and len(order):
            upper, lower = ordered.upper, ordered.lower
            again = (upper[1:] == upper[:-1]) & (lower[1:] == lower[:-1])
            if again.any():
                first = np.concatenate([[True], ~again])
                order, ordered = order[first], ordered[first]
        kept = {name: _narrow(column)[order] for name, column in values.items()}
        return cls(ordered.upper, ordered.lower ^ _seal(kept, slice(None)), kept, words)

    def find(self, wanted: Digests) -> tuple[np.ndarray, np.ndarray]:
        """Return which of the wanted keys are there, and in which rows: int64 ``(m,)`` each; `wanted` is sorted."""
        maybe = np.arange(len(wanted))
        if self.filter is not None:
            place, bit = _bit_of(wanted.lower, len(self.filter))
            maybe = maybe[(self.filter[place] & bit) != 0]
        first = np.searchsorted(self.upper, wanted.upper[maybe])
        there = first < len(self)
        there[there] = self.upper[first[there]] == wanted.upper[maybe[there]]
        maybe, first = maybe[there], first[there]
        counts = np.searchsorted(self.upper, wanted.upper[maybe], side="right") - first
        which = np.repeat(maybe, counts)
        rows = np.arange(len(which)) + np.repeat(first - (np.cumsum(counts) - counts), counts)
        right = (self.sealed[rows] ^ _seal(self.values, rows)) == wanted.lower[which]
        return which[right], rows[right]

    def save(self, path: Path, facts: Mapping[str, Any]) -> None:
        """Write them to a file that is there whole or not at all; `facts` say what it was made from."""
        said = {**facts, "words": self.words, "rows": len(self), "crc32c": checksum(np.ascontiguousarray(self.upper))}
        said["values"] = list(self.values)
        text = json.dumps(said, sort_keys=True).encode()
        columns = {"upper": self.upper, "sealed": self.sealed, **self.values}
        table = pa.table({**columns, FILTER: _filter(self.sealed ^ _seal(self.values, slice(None)))})
        table = table.replace_schema_metadata({FACTS: text, FACTS + b".crc32c": str(checksum(text))})
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            with pa.OSFile(str(part), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
                writer.write_table(table.combine_chunks())
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: Path, facts: Mapping[str, Any]) -> Keys | None:
        """Map a file; None where there is none, or it is damaged or was made from something else.

        It is read once for its checksum, which also brings it into the page cache.
        """
        try:
            with path.open("rb") as file:
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            reader = pa.ipc.open_file(pa.py_buffer(mapped))
            metadata = reader.schema.metadata
            text = metadata[FACTS]
            said = json.loads(text)
            table = reader.read_all()
            columns = {name: table[name].chunk(0).to_numpy() for name in table.schema.names} if len(table) else {}
        except (OSError, ValueError, KeyError, TypeError, pa.ArrowInvalid):
            return None
        whole = metadata.get(FACTS + b".crc32c") == str(checksum(text)).encode() and said["rows"] == len(table)
        if not whole or any(said[name] != value for name, value in facts.items()):
            return None
        upper = columns.pop("upper", np.empty(0, np.uint64))
        sealed = columns.pop("sealed", np.empty(0, np.uint64))
        filter = columns.pop(FILTER, None)  # earlier versions of the program wrote none
        if checksum(upper) != said["crc32c"] or list(columns) != said.get("values", list(columns)):
            return None
        if hasattr(mmap, "MADV_DONTNEED"):
            mapped.madvise(mmap.MADV_DONTNEED)  # the page cache keeps what the process need not count as its own
        return cls(upper, sealed, columns, said["words"], filter)


def _bit_of(lower: np.ndarray, places: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the byte and the bit of a filter of so many bytes that stand for lower halves of keys."""
    number = lower % np.uint64(8 * places or 1)
    return number >> np.uint64(3), np.uint8(1) << (number & np.uint64(7)).astype(np.uint8)


def _filter(lower: np.ndarray) -> np.ndarray:
    """Return the filter of keys by their lower halves, uint8 ``(n,)``."""
    flags = np.zeros(8 * len(lower), bool)
    flags[lower % np.uint64(8 * len(lower) or 1)] = True
    return np.packbits(flags, bitorder="little")


def _seal(values: Mapping[str, np.ndarray], rows: Any) -> np.ndarray:
    """Return what the values of rows mix into their keys, uint64."""
    mixed = np.uint64(0)
    for number, name in enumerate(sorted(values)):
        mixed = mixed + (values[name][rows].astype(np.uint64) + np.uint64(1)) * ODD[number]
    return np.asarray(mixed)


def _narrow(values: np.ndarray) -> np.ndarray:
    """Return whole numbers, none below 0, in as few bytes as hold the largest."""
    return values.astype(np.min_scalar_type(int(values.max(initial=0))))
