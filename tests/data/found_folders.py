"""Folders of files made from their contents, and what is read and said of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from llmdiff.data.sources import Columns, Row, list_data, shards_of
from llmdiff.data.sources.columns import KNOWN
from llmdiff.data.sources.unread_files import unnamed_pictures
from tests.data.pictures import write_tar

Content = bytes | str | pa.Table | Mapping[str, bytes | str]


def write(folder: Path, files: Mapping[str, Content]) -> None:
    """Write files by name: bytes, text, a table in the format that its name has, or a tar's members."""
    for name, content in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Mapping):
            write_tar(file, dict(content))
        elif isinstance(content, pa.Table) and name.endswith(".arrow"):
            with pa.ipc.new_stream(file, content.schema) as writer:
                writer.write_table(content)
        elif isinstance(content, pa.Table):
            pq.write_table(content, file)
        else:
            file.write_bytes(content.encode() if isinstance(content, str) else content)


def rows_in(folder: Path, columns: Columns = KNOWN) -> tuple[list[str], dict[str, str]]:
    """Return each row's caption, the reason why it is refused, or why a shard can't be read; and what is not read."""
    listed = list_data(folder, columns=columns)
    shards = shards_of(listed.files, columns)
    found = []
    for shard in shards:
        try:
            rows = list(shard.rows())
        except ValueError as error:
            found.append(str(error).partition(f"{folder}/")[2])
            continue
        assert [number for number, _ in rows] == list(range(shard.count))
        assert len(shard.content_hash) == 64
        found += [row.caption if isinstance(row, Row) else row.reason for _, row in rows]
    return found, listed.passed_over | unnamed_pictures(listed.pictures, shards)
