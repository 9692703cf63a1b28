"""Columns of any type that Arrow has: the rows that are read are the rows that are counted."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmdiff.data.sources import open_source
from tests.data.pictures import encoded, picture


@pytest.mark.parametrize(
    ("captions", "rows"),
    [
        (pa.array([[("a", "x"), ("b", "y")], []], pa.map_(pa.string(), pa.string())), 2),
        (pa.DictionaryArray.from_arrays(pa.array([0, 0]), pa.array([["x", "y"]])), 2),
        (pa.DictionaryArray.from_arrays(pa.array([0, None]), pa.array(["x"], pa.string_view())), 2),
        (pa.array([["a", "b"], None], pa.list_(pa.string(), 2)), 3),
        (pa.array([[["a", "b"]], None], pa.large_list(pa.list_(pa.string()))), 2),
        (pa.array([1, None]), 2),
        (pa.nulls(2), 2),
    ],
    ids=lambda value: str(value.type).split("<")[0] if isinstance(value, pa.Array) else "",
)
def test_a_column_of_any_type_has_the_rows_that_are_counted(tmp_path: Path, captions: pa.Array, rows: int) -> None:
    table = pa.table({"caption": captions})
    with pa.ipc.new_file(tmp_path / "a.arrow", table.schema) as writer:
        writer.write_table(table)
    (shard,) = open_source(tmp_path)
    assert shard.count == len(list(shard.rows())) == rows


def test_a_column_twice_is_refused_by_name(tmp_path: Path) -> None:
    pq.write_table(pa.table([pa.array(["a"]), pa.array(["b"])], names=["text", "text"]), tmp_path / "a.parquet")
    (shard,) = open_source(tmp_path)
    with pytest.raises(ValueError, match=r"a\.parquet: expected one column named text, found 2"):
        list(shard.rows())


def test_a_picture_of_a_path_alone_is_part_of_the_content(tmp_path: Path) -> None:
    struct = pa.array([{"path": "0.png"}], pa.struct([("path", pa.string())]))
    pq.write_table(pa.table({"image": struct, "text": ["a"]}), tmp_path / "a.parquet")
    hashes = set()
    for seed in range(2):
        (tmp_path / "0.png").write_bytes(encoded(picture(seed=seed)))
        (shard,) = open_source(tmp_path)
        hashes.add(shard.content_hash)
    assert len(hashes) == 2
