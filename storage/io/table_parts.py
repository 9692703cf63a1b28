"""Rows of a table dealt to files on a disk, each of which fits into memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import ipc

COMPRESSED = ipc.IpcWriteOptions(compression="lz4")


class TableParts:
    """Parts of a table that is too large for the memory."""

    def __init__(self, folder: Path, parts: int) -> None:
        """Make a folder for the files of so many parts."""
        folder.mkdir()
        self._paths = [folder / f"{part}.arrows" for part in range(parts)]
        self._writers: dict[int, ipc.RecordBatchStreamWriter] = {}

    def __len__(self) -> int:
        return len(self._paths)

    def add(self, batch: pa.RecordBatch, parts: np.ndarray) -> None:
        """Write rows; `parts` says to which part each, int64 ``(n,)``."""
        plain = pa.schema([field.with_type(_plain(field.type)) for field in batch.schema])
        order = np.argsort(parts, kind="stable")
        ordered = batch.take(pa.array(order)).cast(plain)
        edges = np.flatnonzero(np.diff(parts[order], prepend=-1, append=-1)).tolist()
        for start, stop in zip(edges, edges[1:], strict=False):
            part = int(parts[order[start]])
            if part not in self._writers:
                self._writers[part] = ipc.new_stream(str(self._paths[part]), plain, options=COMPRESSED)
            self._writers[part].write_batch(ordered.slice(start, stop - start))

    def tables(self) -> Iterator[pa.Table | None]:
        """Yield the rows of each part in the order in which they came, None for one without any; remove its file."""
        for writer in self._writers.values():
            writer.close()
        for part, path in enumerate(self._paths):
            if part not in self._writers:
                yield None
                continue
            with ipc.open_stream(str(path)) as stream:
                table = stream.read_all()
            path.unlink()
            yield table


def _plain(kind: pa.DataType) -> pa.DataType:
    """Return the type of a dictionary's values: the batches of one part have different dictionaries."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind
