"""The samples that training reads: which there are, in what order, and where their rows of arrays lie.

They are ordered by source and row: the same order in any store that holds the same ones. The index is made once a
machine (`storage.reading.build`) and mapped from its files; a process keeps little of it but what it has just read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from storage.hashing import content_hash
from storage.io.cached_arrays import CachedArrays, cached
from storage.reading.build import build
from storage.reading.pictures import Pictures
from storage.reading.records import Wanted
from storage.store import EncodingStore

FORMAT = 1
"""Version of the files' layout, to be raised when they are made in another way."""


@dataclass(frozen=True, kw_only=True)
class ArrayRows:
    """Places of the samples' rows of one array."""

    array: str
    """Name of the array: ``latents``, whatever their shapes; of encodings, the array's name inside each shard."""
    shards: Sequence[str]
    """Names of shards."""
    names: Sequence[str]
    """Names of the array inside a shard, one for each shape."""
    place: np.ndarray
    """uint32 ``(n,)``, which shard times the number of names, and which name."""
    first: np.ndarray
    """int64 ``(n,)``"""
    count: np.ndarray
    """int32 ``(n,)``"""
    checksum: np.ndarray
    """uint32 ``(n,)``"""

    def __len__(self) -> int:
        return len(self.first)

    def place_of(self, place: int) -> tuple[str, str]:
        """Return a shard, and the array's name inside it."""
        return self.shards[place // len(self.names)], self.names[place % len(self.names)]


class SampleIndex:
    """A version's samples under one fingerprint; all columns are of ``n`` samples in one order, and read-only."""

    def __init__(self, found: CachedArrays, wanted: Wanted) -> None:
        """Take the columns from the index's files."""
        facts, self._records = found.facts, found.arrays["records"]
        self.sources = np.array(facts["sources"], object)
        """The names of the source shards, objects."""
        self.source = self._records["source"]
        """uint32 ``(n,)``, into `sources`."""
        self.row = self._records["row"]
        """int64 ``(n,)``, row of the source."""
        self.shapes: list[str] = facts["shapes"]
        """Shapes of latents by the store's names, sorted: ``4x64x64``; ``2x4x64x64`` with both orientations."""
        self.may_flip = self._records["may_flip"]
        """Whether a sample's picture may be mirrored: bool ``(n,)``."""
        self.any_may_flip: bool = facts["any_may_flip"]
        """Whether any picture may be mirrored."""
        self.encodings = self._rows(facts, "encodings", f"encodings/{wanted.fingerprint}")
        self.latents = self._rows(facts, "latents", "latents", [f"latents/{shape}" for shape in self.shapes])
        self.base = None if wanted.base is None else self._rows(facts, "base", f"encodings/{wanted.base}")
        """The captions' encodings under a second fingerprint, where one was asked for."""
        self.pooled = None if wanted.pooled is None else self._rows(facts, "pooled", f"encodings/{wanted.pooled}")
        """The captions' encodings under a third, where one was asked for."""
        self.crops = None if wanted.pooled is None else self._records["crop"]
        """Width, height, left and top of each picture, beside `pooled`, int32 ``(n, 4)``; see `storage.Sample.crop`."""
        arrays = found.arrays
        self.pictures = Pictures(arrays["picture_samples"], arrays["picture_starts"]) if wanted.by_picture else None
        """Samples by picture, where that was asked for."""
        self.unit_ends = np.array(facts["unit_ends"], np.int64)
        """End of each source's units, which are its pictures where those are known, else its samples."""
        self._by_shape, self._shape_ends = arrays.get("by_shape"), [0, *facts["shape_ends"]]

    @classmethod
    def load(
        cls,
        store: EncodingStore,
        fingerprint: str,
        base: str | None,
        pooled: str | None,
        at_least: int,
        *,
        by_picture: bool = False,
        flip_words: Sequence[str] | None = None,
    ) -> SampleIndex:
        """Map the index, but read no array; make it first where this machine does not have it.

        Args:
            store: at the version to read.
            fingerprint: the encoder whose samples to read.
            base: a second encoder of the same captions, or None.
            pooled: a third, whose encodings come with the pictures' crops, or None.
            at_least: samples, one for each rank.
            by_picture: find which samples have one picture.
            flip_words: words of captions whose pictures may not be mirrored; None where none may.

        Raises:
            ValueError: no samples under the fingerprint, or fewer than `at_least`; no base or pooled encoding of a
                caption; no crop of a picture.
            OSError: no room for the index's files.
        """
        wanted = Wanted(
            fingerprint=fingerprint,
            base=base,
            pooled=pooled,
            by_picture=by_picture,
            flip_words=None if flip_words is None else tuple(flip_words),
        )
        found = cached("training", _key(store, wanted), lambda folder: build(store, wanted, folder))
        index = cls(found, wanted)
        if len(index) < at_least:
            raise ValueError(
                f"{store.path}: expected at least a sample for each of {at_least} ranks, found {len(index)}"
            )
        return index

    def __len__(self) -> int:
        return len(self._records)

    @property
    def arrays(self) -> list[ArrayRows]:
        """All arrays that are read of a sample."""
        return [rows for rows in (self.encodings, self.base, self.pooled, self.latents) if rows is not None]

    def caption_hashes(self, samples: np.ndarray) -> list[str]:
        """Return the hexadecimal hashes of some samples' captions."""
        digits, width = self._records["hash"][samples].tobytes().hex(), 2 * self._records["hash"].dtype.itemsize * 2
        return [digits[start : start + width] for start in range(0, len(digits), width)]

    def units_of_shape(self, shape: int, places: np.ndarray) -> np.ndarray:
        """Return the units at some places among those of a shape, int64 ``(n,)``."""
        if self._by_shape is None:
            return places
        return np.asarray(self._by_shape[self._shape_ends[shape] + places])

    def places_in_shape(self, shape: int, units: np.ndarray) -> np.ndarray:
        """Return how many units of a shape come before each of some units, int64 ``(n,)``."""
        if self._by_shape is None:
            return units
        return np.searchsorted(self._by_shape[self._shape_ends[shape] : self._shape_ends[shape + 1]], units)

    def _rows(self, facts: Mapping[str, Any], field: str, array: str, names: list[str] | None = None) -> ArrayRows:
        rows = self._records[field]
        columns = {name: rows[name] for name in ("place", "first", "count", "checksum")}
        return ArrayRows(array=array, shards=facts["shards"][field], names=names or [array], **columns)


def _key(store: EncodingStore, wanted: Wanted) -> dict[str, object]:
    """Return all that decides the index's content: the version also by its entry, for a copy has the store's id."""
    entry = b""
    with suppress(FileNotFoundError):
        entry = store.index.log.entry(store.version).read_bytes()
    version = {"store": store.id, "version": store.version, "entry": content_hash(entry)}
    return {"format": FORMAT, **version, **asdict(wanted)}
