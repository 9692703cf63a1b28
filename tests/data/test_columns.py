"""Columns that are named, and data that do not say which of two columns holds the captions."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmdiff.data.sources import Columns, Row, list_data, open_source
from tests.data.pictures import encoded, picture, write_parquet, write_tar

PNG = [encoded(picture(seed=seed)) for seed in range(2)]
SHORT, LONG = ["a cat", ""], ["a small grey cat on a chair", "a dog that runs"]


def parquet(folder: Path, first: str, second: str) -> None:
    pq.write_table(pa.table({"image": PNG, first: SHORT, second: LONG}), folder / "a.parquet")


def arrow(folder: Path, first: str, second: str) -> None:
    table = pa.table({"image": PNG, first: SHORT, second: LONG})
    with pa.ipc.new_file(folder / "a.arrow", table.schema) as writer:
        writer.write_table(table)


def jsonl(folder: Path, first: str, second: str) -> None:
    for i, png in enumerate(PNG):
        (folder / f"{i}.png").write_bytes(png)
    rows = [{"file_name": f"{i}.png", first: SHORT[i], second: LONG[i]} for i in range(2)]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))


def csv(folder: Path, first: str, second: str) -> None:
    for i, png in enumerate(PNG):
        (folder / f"{i}.png").write_bytes(png)
    lines = [f"{i}.png,{SHORT[i]},{LONG[i]}" for i in range(2)]
    (folder / "metadata.csv").write_text("\n".join([f"file_name,{first},{second}", *lines]))


def tar_of_json(folder: Path, first: str, second: str) -> None:
    members: dict[str, bytes | str] = {}
    for i, png in enumerate(PNG):
        members |= {f"{i}.png": png, f"{i}.json": json.dumps({first: SHORT[i], second: LONG[i]})}
    write_tar(folder / "a.tar", members)


def sidecars_of_json(folder: Path, first: str, second: str) -> None:
    for i, png in enumerate(PNG):
        (folder / f"{i}.png").write_bytes(png)
        (folder / f"{i}.json").write_text(json.dumps({first: SHORT[i], second: LONG[i]}))


def tar_of_texts(folder: Path, *_: str) -> None:
    members: dict[str, bytes | str] = {}
    for i, png in enumerate(PNG):
        members |= {f"{i}.png": png, f"{i}.txt": SHORT[i], f"{i}.caption": LONG[i]}
    write_tar(folder / "a.tar", members)


def sidecars_of_texts(folder: Path, *_: str) -> None:
    for i, png in enumerate(PNG):
        (folder / f"{i}.png").write_bytes(png)
        (folder / f"{i}.txt").write_text(SHORT[i])
        (folder / f"{i}.caption").write_text(LONG[i])


COLUMNS = [parquet, arrow, jsonl, csv, tar_of_json, sidecars_of_json]
ENDINGS = [tar_of_texts, sidecars_of_texts]


def captions(path: Path, *names: str, every: bool = False) -> list[str]:
    shards = open_source(path, Columns(captions=names, every=every))
    rows = [row for shard in shards for _, row in shard.rows()]
    assert sum(shard.count for shard in shards) == len(rows)
    assert {row.image for row in rows if isinstance(row, Row) and row.image} <= set(PNG)
    return sorted(row.caption if isinstance(row, Row) else row.reason for row in rows)


@pytest.mark.parametrize("write", [*COLUMNS, *ENDINGS])
def test_of_two_captions_one_must_be_named(tmp_path: Path, write: Callable[..., None]) -> None:
    write(tmp_path, "caption", "text")
    names = (".txt", ".caption") if write is tar_of_texts else ("0.txt", "0.caption") if write in ENDINGS else ()
    found = ", ".join(names or ("caption", "text"))
    expected = f"expected one column of captions, found {found}: name one with --caption-column"
    (shard,) = open_source(tmp_path)
    with pytest.raises(ValueError) as told:
        list(shard.rows())
    assert expected in str(told.value)
    assert str(tmp_path) in str(told.value)


@pytest.mark.parametrize("write", COLUMNS)
def test_columns_by_name(tmp_path: Path, write: Callable[..., None]) -> None:
    write(tmp_path, "Short", "description")
    assert captions(tmp_path, "DESCRIPTION") == sorted(LONG)
    assert captions(tmp_path, "short") == ["a cat", "empty_caption"]
    assert captions(tmp_path, "short", "description") == ["a cat", LONG[1]]
    assert captions(tmp_path, "short", "description", every=True) == ["a cat", LONG[1], LONG[0]]


@pytest.mark.parametrize("write", ENDINGS)
def test_endings_by_name(tmp_path: Path, write: Callable[..., None]) -> None:
    write(tmp_path)
    assert captions(tmp_path, "caption") == sorted(LONG)
    assert captions(tmp_path, "txt", "caption") == ["a cat", LONG[1]]
    assert captions(tmp_path, ".txt", "caption", every=True) == ["a cat", LONG[1], LONG[0]]
    assert captions(tmp_path, "description") == ["no_caption", "no_caption"]


def test_texts_go_before_the_json_that_has_other_facts(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", {"0.png": PNG[0], "0.txt": "of the text", "0.json": '{"caption": "of the JSON"}'})
    assert captions(tmp_path) == ["of the text"]
    assert captions(tmp_path, "caption") == ["of the JSON"]


@pytest.mark.parametrize("write", [parquet, jsonl, csv])
def test_a_column_that_is_not_there_is_told(tmp_path: Path, write: Callable[..., None]) -> None:
    write(tmp_path, "short", "long")
    (shard,) = open_source(tmp_path, Columns(captions=("title", "alt")))
    with pytest.raises(ValueError, match=r"expected a column named title or alt, found \w+, short, long"):
        list(shard.rows())
    (shard,) = open_source(tmp_path, Columns(captions=("short",), image="photo"))
    with pytest.raises(ValueError, match=r"expected a column named photo, found \w+, short, long"):
        list(shard.rows())


def test_rows_that_have_one_caption_each_need_no_name(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"caption": "one"}\n{"text": "two"}\n{"caption": null, "text": "three"}')
    assert captions(tmp_path) == ["one", "three", "two"]
    (tmp_path / "a.jsonl").write_text('{"caption": "one"}\n{"caption": "two", "text": "three"}')
    (shard,) = open_source(tmp_path)
    with pytest.raises(ValueError, match=r"a\.jsonl, row 1: expected one column of captions, found caption, text"):
        shard.rows()


def test_lines_of_text_have_no_columns(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a cat\na dog\n")
    assert captions(tmp_path, "title") == ["a cat", "a dog"]


def test_of_two_pictures_one_must_be_named_but_of_a_picture_and_its_url(tmp_path: Path) -> None:
    table = {"jpg": PNG, "url": ["http://x/1", "http://x/2"], "caption": LONG}
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    assert captions(tmp_path) == sorted(LONG)
    pq.write_table(pa.table({**table, "png": PNG[::-1]}), tmp_path / "a.parquet")
    (shard,) = open_source(tmp_path)
    with pytest.raises(ValueError, match=r"a\.parquet: expected one column of pictures, found jpg, png: name one"):
        list(shard.rows())
    (shard,) = open_source(tmp_path, Columns(image="PNG"))
    assert [row.image for _, row in shard.rows() if isinstance(row, Row)] == PNG[::-1]


def test_a_named_column_may_hold_paths(tmp_path: Path) -> None:
    for i, png in enumerate(PNG):
        (tmp_path / f"{i}.png").write_bytes(png)
    pq.write_table(pa.table({"photo": ["0.png", "1.png"], "caption": LONG}), tmp_path / "a.parquet")
    columns = Columns(image="photo")
    assert [name for _, name in list_data(tmp_path, columns=columns).files] == ["a.parquet"]
    (shard,) = open_source(tmp_path, columns)
    assert [row.image for _, row in shard.rows() if isinstance(row, Row)] == PNG


def test_pictures_of_a_tar_by_their_ending(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", {"0.jpg": PNG[0], "0.mask.png": PNG[1], "0.png": PNG[1], "0.txt": "a cat"})
    (shard,) = open_source(tmp_path, Columns(image="jpg"))
    assert [(row.image, row.caption) for _, row in shard.rows() if isinstance(row, Row)] == [(PNG[0], "a cat")]
    assert shard.unread == ("2 members *.png",)


@pytest.mark.parametrize("write", [parquet, tar_of_json])
def test_the_hash_of_the_content_follows_what_is_chosen(tmp_path: Path, write: Callable[..., None]) -> None:
    write(tmp_path, "caption", "description")

    def content_hash(*names: str, every: bool = False, image: str | None = None) -> str:
        (shard,) = open_source(tmp_path, Columns(captions=names, every=every, image=image))
        return shard.content_hash

    choices = [(), ("description",), ("caption", "description"), ("description", "caption")]
    hashes = [content_hash(*names) for names in choices]
    assert len({*hashes, content_hash("caption", "description", every=True)}) == 5
    assert content_hash("Description") == hashes[1]
    if write is parquet:  # whose columns say beforehand what is read without a name
        assert content_hash("caption", image="image") == hashes[0]


def test_naming_what_is_read_anyway_changes_no_hash(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", [(PNG[0], "a cat")])
    (named,), (unnamed,) = open_source(tmp_path, Columns(captions=("text",))), open_source(tmp_path)
    assert named.content_hash == unnamed.content_hash
