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

    def __len__(self) -> int:
        return len(self.upper)

    @classmethod
    def of(cls, keys: Digests, values: Mapping[str, np.ndarray], words: dict[str, list[str]], unique: bool) -> Keys:
        """Sort keys and values; with `unique`, rows of one key are kept once, whichever comes first."""
        order = np.argsort(keys.upper, kind="stable")
        if unique and len(order):
            upper, lower = keys.upper[order], keys.lower[order]
            again = (upper[1:] == upper[:-1]) & (lower[1:] == lower[:-1])
            order = order[np.concatenate([[True], ~again])]
        kept = {name: _narrow(column[order]) for name, column in values.items()}
        return cls(keys.upper[order], keys.lower[order] ^ _seal(kept, slice(None)), kept, words)

    def find(self, wanted: Digests) -> tuple[np.ndarray, np.ndarray]:
        """Return which of the wanted keys are there, and in which rows: int64 ``(m,)`` each; `wanted` is sorted."""
        first = np.searchsorted(self.upper, wanted.upper)
        last = np.searchsorted(self.upper, wanted.upper, side="right")
        counts = last - first
        which = np.repeat(np.arange(len(wanted)), counts)
        rows = np.arange(len(which)) + np.repeat(first - (np.cumsum(counts) - counts), counts)
        right = (self.sealed[rows] ^ _seal(self.values, rows)) == wanted.lower[which]
        return which[right], rows[right]

    def save(self, path: Path, facts: Mapping[str, Any]) -> None:
        """Write them to a file that is there whole or not at all; `facts` say what it was made from."""
        said = {**facts, "words": self.words, "rows": len(self), "crc32c": checksum(np.ascontiguousarray(self.upper))}
        text = json.dumps(said, sort_keys=True).encode()
        table = pa.table({"upper": self.upper, "sealed": self.sealed, **self.values})
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
        if checksum(upper) != said["crc32c"]:
            return None
        if hasattr(mmap, "MADV_DONTNEED"):
            mapped.madvise(mmap.MADV_DONTNEED)  # the page cache keeps what the process need not count as its own
        return cls(upper, sealed, columns, said["words"])


def _seal(values: Mapping[str, np.ndarray], rows: Any) -> np.ndarray:
    """Return what the values of rows mix into their keys, uint64."""
    mixed = np.uint64(0)
    for number, name in enumerate(sorted(values)):
        mixed = mixed + (values[name][rows].astype(np.uint64) + np.uint64(1)) * ODD[number]
    return np.asarray(mixed)


def _narrow(values: np.ndarray) -> np.ndarray:
    """Return whole numbers, none below 0, in as few bytes as hold the largest."""
    return values.astype(np.min_scalar_type(int(values.max(initial=0))))
