"""The rows of a store's arrays, read to where a batch wants them, and announced to the disk before."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from storage.hashing import checksum
from storage.io.arrays import TOKENS_PER_CHUNK, check_ranges, check_row, open_array, read_ranges
from storage.io.names import shard_folder
from storage.io.paths import StorePath
from storage.io.raw_shards import OuterShard, RawFiles, is_raw
from storage.reading.sample_index import ArrayRows, SampleIndex

OPEN_FILES = 256
OPEN_ARRAYS = 1024

Blocks = dict[str, dict[int, np.ndarray]]
"""Rows read through Zarr, by array and sample."""


@dataclass(frozen=True)
class OpenArray:
    """An array of a shard, and its files where its rows lie in them as they are."""

    array: Any
    files: RawFiles | None


class ArrayReader:
    """Reads samples' rows of arrays; any thread may.

    Rows that lie uncompressed in local files are read straight to their place. Others are read through Zarr, many
    samples at once (`read_blocks`), and copied to their place.
    """

    def __init__(self, root: StorePath, index: SampleIndex) -> None:
        self.root = root
        self.index = index
        self._open: Callable[[str, str], OpenArray] = lru_cache(OPEN_ARRAYS)(self._open_array)
        self._open_file: Callable[[str, int, int], OuterShard] = lru_cache(OPEN_FILES)(OuterShard)

    def array_of(self, rows: ArrayRows, sample: int) -> Any:
        """Return the Zarr array that a sample's rows lie in."""
        return self._open(*rows.place_of(int(rows.place[sample]))).array

    def will_need(self, samples: np.ndarray) -> None:
        """Have the disk begin to read some samples, where they lie in raw files."""
        for rows in self.index.arrays:
            for array, _, first, stop in self._by_array(rows, samples):
                if array.files is not None:
                    with suppress(ValueError):  # which reading them raises
                        check_ranges(array.array, first, stop)
                        array.files.will_need(first, stop)

    def read_blocks(self, samples: np.ndarray) -> Blocks:
        """Read through Zarr what does not lie in raw files, not compared with its checksums yet.

        ValueError where rows of a sample are not in their array, raw or not: before `fill` takes memory for them.
        """
        out: Blocks = defaultdict(dict)
        for rows in self.index.arrays:
            for array, ids, first, stop in self._by_array(rows, samples):
                check_ranges(array.array, first, stop)
                if array.files is None:
                    blocks = read_ranges(array.array, first.tolist(), stop.tolist(), gap=TOKENS_PER_CHUNK)
                    out[rows.array].update(zip(ids.tolist(), blocks, strict=True))
        return out

    def fill(self, rows: ArrayRows, ids: np.ndarray, out: np.ndarray, row_bytes: int, blocks: Blocks) -> None:
        """Bring each sample's rows of an array to its place in a batch, and compare them with their checksum.

        Args:
            rows: of which array.
            ids: the samples.
            out: C-contiguous ``(sample, ...)``; of each sample only its own rows are written.
            row_bytes: bytes of a row.
            blocks: what `read_blocks` returned for these samples, among others.

        Raises:
            ValueError: a row is not the one that was committed.
        """
        starts = np.arange(len(ids)) * out[0].nbytes
        stops = starts + rows.count[ids].astype(np.int64) * row_bytes
        of_sample = ids, rows.place[ids], rows.first[ids], rows.checksum[ids], starts, stops
        columns = [column.tolist() for column in of_sample]
        opened = {place: self._open(*rows.place_of(place)).files for place in set(columns[1])}
        memory = out.data.cast("B")
        for sample, place, first, expected, start, stop in zip(*columns, strict=True):
            into = memory[start:stop]
            if (files := opened[place]) is None:
                into[:] = blocks[rows.array][sample].view(np.uint8).reshape(-1).data
            else:
                files.read(first, into)
            if checksum(into) != expected:
                where = "/".join([str(self.root), "shards", *rows.place_of(place)])
                caption = self.index.caption_hashes(np.array([sample]))[0]
                check_row(into, expected, f"{where}: row {first}, caption {caption}")

    def _by_array(
        self, rows: ArrayRows, samples: np.ndarray
    ) -> Iterator[tuple[OpenArray, np.ndarray, np.ndarray, np.ndarray]]:
        """Yield each array that holds some samples, which those are, and where their rows begin and end."""
        codes = rows.place[samples]
        for code in np.unique(codes):
            ids = samples[codes == code]
            yield self._open(*rows.place_of(int(code))), ids, rows.first[ids], rows.first[ids] + rows.count[ids]

    def _open_array(self, shard: str, name: str) -> OpenArray:
        array = open_array(shard_folder(self.root, shard), name)
        return OpenArray(array, RawFiles(array, self._open_file) if is_raw(array) else None)
