"""Raw shard I/O: rows that lie uncompressed in an array's local files, written and read there without a copy.

The files are Zarr's own sharded format, which any Zarr reads: an outer shard is its inner chunks, each with its
CRC-32C, and after them their index. The codec pipelines copy what they write once more and what they read twice, into
memory that is new each time.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import crc32c
import numpy as np
from zarr.codecs import BytesCodec, Crc32cCodec, ShardingCodec
from zarr.storage import LocalStore

from storage.hashing import checksum

NO_CHUNK = 2**64 - 1
"""Place and size of a chunk that is not there: all zeros."""
UNWANTED = memoryview(bytearray(4))
"""Buffer for the checksums between chunks that are read at once, which nobody needs."""
PARTS_AT_ONCE = 1000
"""Number of buffers of one read: Linux reads into at most 1,024 at once."""
BEGIN_BYTES = 4 * 1024 * 1024
"""Bytes that are written before the disk is told again to begin."""
HINT_BYTES = 128 * 1024
"""Bytes of one read-ahead hint: Linux takes as much from one, by default, and forgets the rest."""


class OuterShardWriter:
    """Writes the file of an outer shard, a chunk at a time."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.size = 0
        """Bytes written."""
        self.crc32c = 0
        """CRC-32C of those bytes."""
        self.starts: list[tuple[int, int]] = []
        """Place and size of each chunk."""
        self._file = path.open("wb")
        self._begun = 0  # bytes that the disk has been told to write

    def write(self, chunk: np.ndarray) -> None:
        """Add a chunk, C-contiguous and little-endian."""
        self.starts.append((self.size, chunk.nbytes + 4))
        self._write(chunk)
        if self.size - self._begun >= BEGIN_BYTES:
            self._begin()

    def finish(self, chunks: int) -> None:
        """Write the index, for so many chunks; those that were not written are not there."""
        index = np.full((chunks, 2), NO_CHUNK, "<u8")
        index[: len(self.starts)] = self.starts
        self._write(index)
        self._begin()
        self._file.close()

    def _begin(self) -> None:
        """Have the disk begin to write, as Linux does with what it can not drop: syncing will wait for less."""
        self._file.flush()
        os.posix_fadvise(self._file.fileno(), self._begun, self.size - self._begun, os.POSIX_FADV_DONTNEED)
        self._begun = self.size

    def _write(self, data: np.ndarray) -> None:
        """Write data and their checksum, as the codec does."""
        for part in (data, np.array([checksum(data)], "<u4")):
            self._file.write(part.data)
            self.size += part.nbytes
            self.crc32c = crc32c.crc32c(part.data, self.crc32c)


def is_raw(array: Any) -> bool:
    """Return whether an array's rows lie uncompressed in local files, each within one chunk."""
    codecs = array.metadata.codecs
    if not isinstance(array.store_path.store, LocalStore) or len(codecs) != 1 or array.chunks[1:] != array.shape[1:]:
        return False
    raw = (BytesCodec(endian="little"), Crc32cCodec())
    return bool(
        isinstance(codecs[0], ShardingCodec)
        and tuple(codecs[0].codecs) == tuple(codecs[0].index_codecs) == raw
        and codecs[0].index_location.value == "end"
    )


class RawFiles:
    """Reads rows of an array by their place in its local files, straight to where they are wanted.

    The codec pipeline copies twice, into memory that is new each time, and takes four times as long. Neither it, when
    it reads a part of a chunk, nor this compares the chunk's checksum: the row's decides.
    """

    def __init__(self, array: Any, open_file: Callable[[str, int, int], OuterShard]) -> None:
        self.rows = int(array.shape[0])
        self.chunk_rows = int(array.chunks[0])
        self.outer_rows = int(array.shards[0])
        self.row_bytes = math.prod(array.shape[1:]) * array.dtype.itemsize
        self.name = str(array.store_path)
        self._folder = array.store_path.store.root / array.store_path.path
        self._key_of = array.metadata.encode_chunk_key
        self._others = (0,) * (array.ndim - 1)
        # Opened when asked for: an array may claim any number of files.
        self._files: dict[int, tuple[str, int, int]] = {}
        self._open_file = open_file

    def read(self, start: int, into: memoryview) -> None:
        """Read rows from `start` on, as many bytes of them as `into` holds.

        ValueError where there are not so many, or where the files are damaged or too short.
        """
        rows = len(into) // self.row_bytes
        if start + rows > self.rows:
            raise ValueError(f"{self.name}: expected {start + rows} rows, found {self.rows}")
        number, row = divmod(start, self.outer_rows)
        while (within := (self.outer_rows - row) * self.row_bytes) < len(into):
            self._file(number).read(row * self.row_bytes, into[:within])
            number, row, into = number + 1, 0, into[within:]
        self._file(number).read(row * self.row_bytes, into)

    def will_need(self, first: np.ndarray, stop: np.ndarray) -> None:
        """Have the disk begin to read ranges of rows: the chunks that hold them."""
        begin, end = first // self.chunk_rows, (stop - 1) // self.chunk_rows
        more = end - begin
        chunks = np.unique(np.concatenate([begin[more >= i] + i for i in range(int(more.max()) + 1)]))
        per_file = self.outer_rows // self.chunk_rows
        for number in np.unique(chunks // per_file):
            self._file(int(number)).will_need(chunks[chunks // per_file == number] % per_file)

    def _file(self, number: int) -> OuterShard:
        if (file := self._files.get(number)) is None:
            path = str(self._folder / self._key_of((number, *self._others)))
            file = self._files[number] = path, self.outer_rows // self.chunk_rows, self.chunk_rows * self.row_bytes
        return self._open_file(*file)


class OuterShard:
    """A file of a raw array, open: chunks of one size in any order, each with its checksum, and then their index."""

    def __init__(self, path: str, chunks: int, chunk_bytes: int) -> None:
        """Open a file; ValueError where it is not there, too short, or its index is not as it was written."""
        self.path = path
        self.chunk_bytes = chunk_bytes
        self._descriptor = -1
        size = 16 * chunks  # place and size of each, uint64
        try:
            self._descriptor = os.open(path, os.O_RDONLY)
            before = os.fstat(self._descriptor).st_size - size - 4
            index = b"" if before < 0 else os.pread(self._descriptor, size + 4, before)
        except OSError as error:
            raise ValueError(f"{path}: can't be read, the store is damaged: {error.strerror}") from error
        if len(index) != size + 4 or checksum(index[:-4]) != int.from_bytes(index[-4:], "little"):
            raise ValueError(f"{path}: the index does not have its checksum: the store is damaged")
        self._starts = np.frombuffer(index[:-4], "<u8").reshape(-1, 2)[:, 0].tolist()

    def __del__(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)

    def read(self, offset: int, into: memoryview) -> None:
        """Read from an offset on, counted as if the chunks lay one after the other; zeros where there is no chunk."""
        chunk, offset = divmod(offset, self.chunk_bytes)
        begin = end = 0
        parts: list[memoryview] = []  # buffers of one read: neighbours in the file, and the checksums between them
        while into:
            start = self._starts[chunk] + offset
            part, into = into[: self.chunk_bytes - offset], into[self.chunk_bytes - offset :]
            if 0 < len(parts) < PARTS_AT_ONCE and start == end + len(UNWANTED):
                parts += [UNWANTED, part]
            else:
                self._read(begin, end, parts)
                parts, begin = [part], start
            end = start + len(part)
            chunk, offset = chunk + 1, 0
        self._read(begin, end, parts)

    def _read(self, begin: int, end: int, parts: list[memoryview]) -> None:
        if begin >= NO_CHUNK:
            parts[0][:] = bytes(len(parts[0]))
        elif parts:
            try:
                found = os.preadv(self._descriptor, parts, begin)
            except OSError as error:
                raise ValueError(f"{self.path}: can't be read: {error.strerror}") from error
            if found != end - begin:
                raise ValueError(f"{self.path}: expected {end - begin} bytes, found {found}: the store is damaged")

    def will_need(self, chunks: np.ndarray) -> None:
        """Have the disk begin to read some chunks, neighbours at once."""
        starts = sorted(start for chunk in chunks.tolist() if (start := self._starts[chunk]) != NO_CHUNK)
        begin = end = 0
        for start in [*starts, NO_CHUNK]:
            if start > end + self.chunk_bytes:
                for part in range(begin, end, HINT_BYTES):
                    os.posix_fadvise(self._descriptor, part, min(HINT_BYTES, end - part), os.POSIX_FADV_WILLNEED)
                begin = start
            end = start + self.chunk_bytes
