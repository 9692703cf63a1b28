from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmdiff.data.images import BadRow
from llmdiff.data.sources import Row, image_folder, open_source
from tests.data.pictures import encoded, picture, write_imagefolder, write_parquet

PNG = encoded(picture())


def reasons(path: Path) -> dict[int, str]:
    rows = [item for shard in open_source(path) for item in shard.rows()]
    return {number: row.reason for number, row in rows if isinstance(row, BadRow)}


def test_a_folder_of_parquet_shards_opens_in_the_order_of_names(tmp_path: Path) -> None:
    for name in ("b", "a", "deeper/c"):
        write_parquet(tmp_path / f"{name}.parquet", [(PNG, name), (PNG, "two")])
    shards = open_source(tmp_path)
    assert [shard.name for shard in shards] == ["a.parquet", "b.parquet", "deeper/c.parquet"]
    assert [shard.count for shard in shards] == [2, 2, 2]
    assert list(shards[0].rows()) == [(0, Row(0, PNG, "a")), (1, Row(1, PNG, "two"))]


@pytest.mark.parametrize(("image", "caption"), [("img", "caption"), ("picture", "prompt"), ("image", "text")])
def test_plain_bytes_and_other_column_names(tmp_path: Path, image: str, caption: str) -> None:
    pq.write_table(pa.table({"id": [7], image: [PNG], caption: ["a cat"]}), tmp_path / "a.parquet")
    (shard,) = open_source(tmp_path / "a.parquet")
    assert list(shard.rows()) == [(0, Row(0, PNG, "a cat"))]


def test_a_column_of_paths_is_read_beside_the_shard_and_belongs_to_its_content(tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(PNG)
    pq.write_table(pa.table({"file_name": ["1.png"], "text": ["a cat"]}), tmp_path / "a.parquet")
    (shard,) = open_source(tmp_path)
    assert list(shard.rows()) == [(0, Row(0, PNG, "a cat"))]
    before = shard.content_hash
    (tmp_path / "1.png").write_bytes(encoded(picture(seed=1)))
    assert open_source(tmp_path)[0].content_hash != before


def test_bad_rows_are_told_apart(tmp_path: Path) -> None:
    rows = [(PNG, "fine"), (PNG, ""), (PNG, " \n"), (PNG, None), (None, "no picture"), (b"", "no bytes")]
    write_parquet(tmp_path / "a.parquet", rows)
    found = reasons(tmp_path)
    assert found == {1: "empty_caption", 2: "empty_caption", 3: "no_caption", 4: "no_image", 5: "no_image"}


def test_an_imagefolder_with_a_separator_inside_a_caption(tmp_path: Path) -> None:
    captions = ["a cat", 'line\u2028separator, "quotes"', "ein Kätzchen"]
    write_imagefolder(tmp_path, [(PNG, caption) for caption in captions])
    (shard,) = open_source(tmp_path)
    assert [row.caption for _, row in shard.rows() if isinstance(row, Row)] == captions


def test_metadata_csv(tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(PNG)
    (tmp_path / "metadata.csv").write_text('file_name,text\n1.png,"a cat, sitting"\n', encoding="utf-8-sig")
    (shard,) = open_source(tmp_path)
    assert list(shard.rows()) == [(0, Row(0, PNG, "a cat, sitting"))]


@pytest.mark.parametrize("name", ["metadata.jsonl", "metadata.csv"])
def test_metadata_that_is_not_utf8_names_file_line_and_byte(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes("file_name,text\n1.png,a cat\n2.png,ein Kätzchen\n".encode("latin-1"))
    with pytest.raises(ValueError, match=f"{name}: line 3: expected UTF-8 text, found byte 0xe4"):
        open_source(tmp_path)


def test_metadata_without_rows_has_no_shard(tmp_path: Path) -> None:
    (tmp_path / "metadata.jsonl").touch()
    assert open_source(tmp_path) == []


def test_a_folder_may_be_named_like_a_shard(tmp_path: Path) -> None:
    write_parquet(tmp_path / "all.parquet" / "part-0.parquet", [(PNG, "one")])
    assert [shard.name for shard in open_source(tmp_path)] == ["all.parquet/part-0.parquet"]


def test_bad_lines_of_metadata_are_rows_refused(tmp_path: Path) -> None:
    write_imagefolder(tmp_path, [(PNG, "fine")])
    lines = ["{not json", '["a list"]', json.dumps({"file_name": "gone.png", "text": "x"}), json.dumps({"text": "x"})]
    with (tmp_path / "metadata.jsonl").open("a") as file:
        file.write("\n".join(lines))
    assert reasons(tmp_path) == {1: "broken_metadata", 2: "broken_metadata", 3: "no_image", 4: "no_image"}


@pytest.mark.parametrize("name", ["../secret.png", "{root}/secret.png", "link.png", "a/../../secret.png"])
def test_no_file_outside_the_folder_is_read(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret.png").write_bytes(PNG)
    data = tmp_path / "data"
    data.mkdir()
    (data / "link.png").symlink_to(tmp_path / "secret.png")
    line = json.dumps({"file_name": name.format(root=tmp_path), "text": "x"})
    (data / "metadata.jsonl").write_text(line + "\n")
    assert reasons(data) == {0: "outside_folder"}


def test_a_long_metadata_file_is_cut_into_shards(tmp_path: Path) -> None:
    write_imagefolder(tmp_path, [(PNG, str(i)) for i in range(5)])
    shards = list(image_folder(tmp_path / "metadata.jsonl", "metadata.jsonl", rows_per_shard=2))
    assert [shard.name for shard in shards] == [f"metadata.jsonl[{a}:{b}]" for a, b in ((0, 2), (2, 4), (4, 5))]
    assert [number for shard in shards for number, _ in shard.rows()] == [0, 1, 2, 3, 4]
    with (tmp_path / "metadata.jsonl").open("a") as file:
        file.write(json.dumps({"file_name": "0.png", "text": "new"}) + "\n")
    again = list(image_folder(tmp_path / "metadata.jsonl", "metadata.jsonl", rows_per_shard=2))
    same = [a.content_hash == b.content_hash for a, b in zip(shards, again, strict=True)]
    assert same == [True, True, False]


def test_content_is_what_counts_not_the_name(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a" / "x.parquet", [(PNG, "one")])
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "y.parquet").write_bytes((tmp_path / "a" / "x.parquet").read_bytes())
    write_parquet(tmp_path / "c" / "x.parquet", [(PNG, "two")])
    a, b, c = (open_source(tmp_path / name)[0].content_hash for name in "abc")
    assert a == b
    assert a != c


def test_what_is_no_data_says_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="gone: no such file or folder"):
        open_source(tmp_path / "gone")
    with pytest.raises(ValueError, match=r"expected \*\.parquet or one of metadata\.jsonl, metadata\.csv"):
        open_source(tmp_path)
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(ValueError, match="expected a .parquet file"):
        open_source(tmp_path / "a.txt")


DAMAGED = b"PAR1" + bytes(range(100)) + (100).to_bytes(4, "little") + b"PAR1"  # a footer that says nothing


@pytest.mark.parametrize("content", [b"", b"PAR1", b"not parquet at all, but longer than a footer", DAMAGED, None])
def test_a_shard_that_is_not_parquet_names_its_file(tmp_path: Path, content: bytes | None) -> None:
    file = write_parquet(tmp_path / "a.parquet", [(PNG, "one")])
    file.write_bytes(file.read_bytes()[:-20] if content is None else content)
    (shard,) = open_source(tmp_path)
    with pytest.raises(ValueError, match="a.parquet: expected a Parquet file"):
        list(shard.rows())


def test_a_parquet_file_without_the_columns_names_those_it_has(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": [1], "image": [PNG]}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="expected a column named caption or text or prompt, found id, image"):
        list(open_source(tmp_path)[0].rows())
