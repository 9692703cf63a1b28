"""Ragged rows in Zarr v3 arrays: inner chunks for reading, outer shards for the disk, a CRC-32C on each chunk.

`storage.io.raw_shards` writes them on a disk. From one the Rust codec pipeline (`zarrs`) reads them, zarr's own
pipeline from an object store. Either skips the checksum of a chunk that it reads a part of, and a missing file reads
as zeros; so the index holds a checksum of each row, and `read_rows` is not to be trusted without it.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from obstore.exceptions import BaseError
from zarr.codecs import BytesCodec, Crc32cCodec

from storage.hashing import checksum
from storage.io.files import naming
from storage.io.names import array_folder
from storage.io.paths import StorePath
from storage.io.raw_shards import OuterShardWriter

TOKENS_PER_CHUNK = 64
LATENT_CHUNK_BYTES = 256 * 1024
OUTER_BYTES = 128 * 1024 * 1024
MOST_CHUNK_BYTES, MOST_CHUNKS = 1024**3, 2**22
"""Most bytes of an inner chunk, and most chunks of an outer shard, whose index is read whole."""
MOST_BYTES = 4 * 1024**3
"""Most bytes of one sample's rows of an array: an index that says more is damaged, and no memory is taken for it."""

PIPELINE = {"codec_pipeline.path": "zarrs.ZarrsCodecPipeline", "codec_pipeline.strict": True}
_CONFIGURING = threading.Lock()


class ArrayWriter:
    """Appends rows to an array of a shard on a disk that nobody can see yet; in memory is one inner chunk."""

    def __init__(
        self,
        shard: Path,
        name: str,
        row_shape: Sequence[int],
        dtype: str,
        chunk_rows: int,
        attributes: Mapping[str, Any],
    ) -> None:
        self.shard = shard
        self.name = name
        self.row_shape = tuple(row_shape)
        self.attributes = dict(attributes)
        self.files: dict[str, dict[str, int]] = {}
        """Size and CRC-32C of each finished file, by path in the shard."""
        self._chunk = np.empty((chunk_rows, *self.row_shape), dtype)
        self._outer_chunks = max(1, OUTER_BYTES // self._chunk.nbytes)
        self._rows = 0
        self._file: OuterShardWriter | None = None
        self._array: zarr.Array[Any] | None = None

    def append(self, rows: np.ndarray) -> int:
        """Add ``(row, *row_shape)``; return the number of its first row."""
        first = self._rows
        while len(rows):
            filled = self._rows % len(self._chunk)
            part = rows[: len(self._chunk) - filled]
            self._chunk[filled : filled + len(part)] = part
            self._rows += len(part)
            rows = rows[len(part) :]
            if self._rows % len(self._chunk) == 0:
                self._write_chunk()
        return first

    def flush(self) -> None:
        """Write what is in memory, to be called once, at the end: the last file may be smaller than the others."""
        if filled := self._rows % len(self._chunk):
            self._chunk[filled:] = 0
            self._write_chunk()
        if self._file is not None:
            self._finish_file(self._file)

    def _write_chunk(self) -> None:
        with naming(self.shard / self.name):
            if self._file is None:
                self._file = OuterShardWriter(self.shard / self._file_name())
            self._file.write(self._chunk)
        if len(self._file.starts) == self._outer_chunks:
            self._finish_file(self._file)

    def _finish_file(self, file: OuterShardWriter) -> None:
        with naming(self.shard / self.name):
            if self._array is None:
                self._array = self._create(len(file.starts))
            assert self._array.shards is not None
            file.finish(self._array.shards[0] // len(self._chunk))
            self._array.resize((self._rows, *self.row_shape))
        self.files[self._file_name()] = {"size": file.size, "crc32c": file.crc32c}
        self._file = None

    def _file_name(self) -> str:
        """Return the name of the next file, as Zarr's default encoding of chunk keys has it."""
        return "/".join([self.name, "c", str(len(self.files)), *("0" for _ in self.row_shape)])

    def _create(self, chunks: int) -> zarr.Array[Any]:
        """Create the array's metadata. An outer shard is no larger than the first: its index has an entry a chunk."""
        chunk_rows = len(self._chunk)
        group = zarr.open_group(self.shard, mode="a", zarr_format=3)
        return group.create_array(
            self.name,
            shape=(0, *self.row_shape),
            dtype=self._chunk.dtype,
            chunks=(chunk_rows, *self.row_shape),
            shards=(chunks * chunk_rows, *self.row_shape),
            filters=None,
            compressors=[Crc32cCodec()],
            fill_value=0,
            attributes=self.attributes,
        )


@contextmanager
def rust_pipeline() -> Iterator[None]:
    """Let arrays that are opened inside use the Rust codecs, and those of anyone else not.

    Zarr's configuration is the process's: of two threads that change it at once, one would undo it too late.
    """
    with _CONFIGURING, zarr.config.set(PIPELINE):
        yield


def encoding_writer(shard: Path, fingerprint: str, width: int, bands: int) -> ArrayWriter:
    """Return a writer of bfloat16 bits ``(token, band * hidden)``."""
    attributes = {"dtype": "bfloat16", "bands": bands, "hidden": width // bands}
    return ArrayWriter(shard, f"encodings/{fingerprint}", (width,), "uint16", TOKENS_PER_CHUNK, attributes)


def latent_writer(shard: Path, shape: tuple[int, ...]) -> ArrayWriter:
    """Return a writer of float16 ``([orientation,] channel, height, width)``."""
    rows = max(1, LATENT_CHUNK_BYTES // (2 * math.prod(shape)))
    return ArrayWriter(shard, f"latents/{shape_name(shape)}", shape, "float16", rows, {})


def is_pair(name: str) -> bool:
    """Return whether latents of a shape, as `shape_name` writes it, hold a picture and its mirror image."""
    return name.count("x") == 3


@cache
def shape_name(shape: tuple[int, ...]) -> str:
    """Return the name of the array that holds latents of a shape."""
    return "x".join(str(size) for size in shape)


def open_array(shard: StorePath, name: str) -> zarr.Array[Any]:
    """Open an array of a shard; ValueError where it is not there, OSError where an object store does not answer."""
    path = array_folder(shard, name)
    try:
        with path.naming(), nullcontext() if path.is_remote else rust_pipeline():
            store, key = path.zarr_location()
            array = zarr.open_array(store, path=key, mode="r", zarr_format=3)
            check_layout(array)
            return array
    except Exception as error:  # Zarr raises many kinds over a description that is none; each means the same here
        if path.is_remote and isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
            raise
        raise ValueError(f"{path}: expected a Zarr array, found none ({error})") from error


def check_layout(array: zarr.Array[Any]) -> None:
    """Raise ValueError where an array says of its chunks what no writer writes.

    The codecs would believe it, and end the process over memory that is not there.
    """
    chunk, outer = array.chunks, array.shards or array.chunks
    if not all(side > 0 for side in (*chunk, *outer)):
        raise ValueError(f"expected chunks of some rows, found {chunk} in {outer}")
    chunk_bytes, outer_bytes = (math.prod(shape) * array.dtype.itemsize for shape in (chunk, outer))
    if chunk_bytes > MOST_CHUNK_BYTES or outer_bytes > MOST_BYTES or outer_bytes > MOST_CHUNKS * chunk_bytes:
        raise ValueError(f"expected chunks of at most {MOST_CHUNK_BYTES} bytes, found {chunk} in {outer}")
    first, *others = array.metadata.codecs  # type: ignore[union-attr]
    for codec in (*others, *getattr(first, "codecs", ()), *getattr(first, "index_codecs", ())):
        if not isinstance(codec, BytesCodec | Crc32cCodec):
            raise ValueError(f"expected rows that are not packed, found {type(codec).__name__}")


def check_row(row: np.ndarray | memoryview, expected: int, what: str) -> None:
    """Raise ValueError where a row's bytes are not those that were committed."""
    if (found := checksum(row)) != expected:
        raise ValueError(f"{what}: expected checksum {expected:08x}, found {found:08x}: the store is damaged")


def split_bands(bits: np.ndarray, bands: int) -> np.ndarray:
    """Turn stored ``(token, band * hidden)`` into ``(band, token, hidden)``; return one band as it is."""
    if bands == 1:
        return bits
    tokens, width = bits.shape
    return np.ascontiguousarray(bits.reshape(tokens, bands, width // bands).swapaxes(0, 1))


def bands_of(array: zarr.Array[Any]) -> int:
    """Return how many bands lie side by side in a row of an array of encodings."""
    bands: Any = array.attrs["bands"]
    return int(bands)


def read_rows(array: zarr.Array[Any], start: int, stop: int) -> np.ndarray:
    """Read rows ``start`` to ``stop`` of an array; errors as of `open_array`, where files are damaged or too short."""
    check_ranges(array, np.array([start]), np.array([stop]))
    try:
        return np.asarray(array[start:stop])
    except BaseError as error:
        raise OSError(f"{_where(array)}: {error}") from error
    except (RuntimeError, IndexError, OSError) as error:
        raise ValueError(f"{_where(array)}: rows {start} to {stop}: {error}") from error


def check_ranges(array: zarr.Array[Any], starts: np.ndarray, stops: np.ndarray) -> None:
    """Raise ValueError where one of some ranges of rows, int64 ``(n,)``, is not in an array, or too large to be read.

    It is for numbers out of an index, before any memory is taken for what they promise.
    """
    if (beyond := stops[stops > array.shape[0]]).size:
        raise ValueError(f"{_where(array)}: expected {beyond[0]} rows, found {array.shape[0]}")
    row_bytes = math.prod(array.shape[1:]) * array.dtype.itemsize
    wrong = (starts < 0) | (stops <= starts) | (stops - starts > MOST_BYTES // max(1, row_bytes))
    if wrong.any():
        first, last = int(starts[wrong][0]), int(stops[wrong][0])
        found = f"{first} to {last}, of {row_bytes} bytes each"
        raise ValueError(f"{_where(array)}: expected rows of one sample, found {found}: the store is damaged")


def read_ranges(array: zarr.Array[Any], starts: Sequence[int], stops: Sequence[int], gap: int) -> list[np.ndarray]:
    """Read several ranges of rows; those with fewer than `gap` rows between them are read at once."""
    out: list[np.ndarray] = [np.empty(0)] * len(starts)
    for group in _neighbours(starts, stops, gap):
        first = starts[group[0]]
        block = read_rows(array, first, max(stops[i] for i in group))
        for i in group:
            out[i] = block[starts[i] - first : stops[i] - first]
    return out


def _where(array: zarr.Array[Any]) -> str:
    return str(array.store_path).removeprefix("file://")


def _neighbours(starts: Sequence[int], stops: Sequence[int], gap: int) -> Iterable[list[int]]:
    group: list[int] = []
    end = 0
    for i in sorted(range(len(starts)), key=starts.__getitem__):
        if group and starts[i] > end + gap:
            yield group
            group, end = [], 0
        group.append(i)
        end = max(end, stops[i])
    if group:
        yield group
