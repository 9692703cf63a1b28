from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmdiff.data.rejects import BadRow
from llmdiff.data.sources import ParquetShard, Row, Url, open_source
from llmdiff.data.sources.tables.text_tables import table_shards
from tests.data.pictures import encoded, not_utf8, picture, write_imagefolder, write_parquet, write_tar

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


def test_metadata_without_rows_needs_no_autoencoder(tmp_path: Path) -> None:
    (tmp_path / "metadata.jsonl").touch()
    (shard,) = open_source(tmp_path)
    assert (shard.count, list(shard.rows()), shard.has_pictures) == (0, [], False)


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
    shards = list(table_shards(tmp_path / "metadata.jsonl", "metadata.jsonl", rows_per_shard=2))
    assert [shard.name for shard in shards] == [f"metadata.jsonl[{a}:{b}]" for a, b in ((0, 2), (2, 4), (4, 5))]
    assert [number for shard in shards for number, _ in shard.rows()] == [0, 1, 2, 3, 4]
    with (tmp_path / "metadata.jsonl").open("a") as file:
        file.write(json.dumps({"file_name": "0.png", "text": "new"}) + "\n")
    again = list(table_shards(tmp_path / "metadata.jsonl", "metadata.jsonl", rows_per_shard=2))
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
    with pytest.raises(ValueError, match=r"expected a file of \.parquet, \.arrow, .* found none in it"):
        open_source(tmp_path)
    (tmp_path / "a.docx").write_text("x")
    with pytest.raises(ValueError, match=r"a\.docx: expected a file of \.parquet, \.arrow, "):
        open_source(tmp_path / "a.docx")


def test_a_folder_may_hold_any_mixture(tmp_path: Path) -> None:
    write_parquet(tmp_path / "b.parquet", [(PNG, "one")])
    write_imagefolder(tmp_path / "d", [(PNG, "two")])
    write_tar(tmp_path / "a.tar", {"1.png": PNG, "1.txt": "three"})
    (tmp_path / "c.TSV").write_text("Prompt\nfour\n")
    (tmp_path / "README.txt").write_text("About these data.\n")
    shards = open_source(tmp_path)
    assert [shard.name for shard in shards] == ["a.tar", "b.parquet", "c.TSV", "d/metadata.jsonl"]
    assert [shard.has_pictures for shard in shards] == [True, True, False, True]


def test_a_folder_of_text_files(tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text(f"a caption of {name}\n")
    assert [(shard.name, shard.count) for shard in open_source(tmp_path)] == [("a.txt", 1), ("b.txt", 1)]


def test_the_list_that_img2dataset_leaves_beside_a_tar_is_no_data(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", {"1.png": PNG, "1.txt": "a cat"})
    pq.write_table(pa.table({"url": ["http://x/1.png"], "caption": ["a cat"]}), tmp_path / "0.parquet")
    assert [shard.name for shard in open_source(tmp_path)] == ["0.tar"]


def test_an_unreadable_metadata_file_says_so_when_its_turn_comes(tmp_path: Path) -> None:
    write_parquet(tmp_path / "b.parquet", [(PNG, "one")])
    (tmp_path / "metadata.jsonl").symlink_to("gone")
    fine, bad = open_source(tmp_path)
    assert fine.count == 1
    for ask in (lambda: bad.count, lambda: bad.content_hash, lambda: bad.has_pictures, lambda: list(bad.rows())):
        with pytest.raises(ValueError, match=r"metadata\.jsonl: No such file or directory"):
            ask()


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


@pytest.mark.parametrize("names", [("URL", "TEXT"), ("image_url", "caption"), ("Image", "Prompt"), ("path", "text")])
def test_urls_are_rows_that_nothing_was_downloaded_for(tmp_path: Path, names: tuple[str, str]) -> None:
    table = pa.table({names[0]: ["http://127.0.0.1:9/a.png"], names[1]: ["a cat"]})
    pq.write_table(table, tmp_path / "a.parquet")
    (shard,) = open_source(tmp_path)
    ((_, row),) = shard.rows()
    assert isinstance(row, Row)
    assert isinstance(row.image, Url)
    assert row.image == "http://127.0.0.1:9/a.png"
    assert shard.has_pictures
    assert len(shard.content_hash) == 64


def test_a_parquet_file_of_captions_alone(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": [1, 2], "Prompt": ["a cat", ""]}), tmp_path / "a.parquet")
    (shard,) = open_source(tmp_path)
    assert not shard.has_pictures
    assert next(iter(shard.rows())) == (0, Row(0, None, "a cat"))
    assert reasons(tmp_path) == {1: "empty_caption"}


@pytest.mark.parametrize("kind", [pa.list_(pa.string()), pa.large_list(pa.string()), None])
def test_several_captions_make_a_row_each(tmp_path: Path, kind: pa.DataType | None) -> None:
    captions = [["a", "b"], [], None, ["c", " ", None]]
    if kind is None:
        lines = [json.dumps({"image": f"{i}.png", "caption": several}) for i, several in enumerate(captions)]
        (tmp_path / "a.jsonl").write_text("\n".join(lines))
        for i in range(4):
            (tmp_path / f"{i}.png").write_bytes(PNG)
    else:
        pq.write_table(pa.table({"image": [PNG] * 4, "caption": pa.array(captions, kind)}), tmp_path / "a.parquet")
    (shard,) = open_source(tmp_path)
    rows = list(shard.rows())
    assert [number for number, _ in rows] == list(range(shard.count)) == list(range(7))
    assert {n: row.caption for n, row in rows if isinstance(row, Row)} == {0: "a", 1: "b", 4: "c"}
    found = {n: str(row) for n, row in rows if isinstance(row, BadRow)}
    assert set(found) == {2, 3, 5, 6}
    assert found[5] == "empty_caption: row 3 of the file, caption 1, both from 0: expected text, found ' '"
    assert found[6] == "no_caption: row 3 of the file, caption 2, both from 0: expected text, found NoneType"
    assert found[3].startswith("no_caption: row 2 of the file, ")


def test_a_list_of_captions_is_counted_without_its_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pq.write_table(pa.table({"image": [PNG] * 2, "text": [["a", "b"], ["c"]]}), tmp_path / "a.parquet")
    read: list[list[str]] = []
    batches = ParquetShard.batches
    monkeypatch.setattr(ParquetShard, "batches", lambda self, names: read.append(names) or batches(self, names))
    assert open_source(tmp_path)[0].count == 3
    assert read == [["text"]]


BAD = "ein Kätzchen".encode("latin-1")


@pytest.mark.parametrize("kind", ["string", "binary", "list"])
def test_a_parquet_string_that_is_not_utf8_is_a_row_refused(tmp_path: Path, kind: str) -> None:
    values = [b"a cat", BAD, b"a dog"]
    texts = {
        "string": not_utf8(values),
        "binary": pa.array(values),
        "list": pa.ListArray.from_arrays(pa.array([0, 1, 2, 3], pa.int32()), not_utf8(values)),
    }
    pq.write_table(pa.table({"image": [PNG] * 3, "text": texts[kind]}), tmp_path / "a.parquet")
    assert reasons(tmp_path) == {1: "not_utf8"}


def test_a_path_that_is_not_utf8_is_a_row_refused(tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(PNG)
    pq.write_table(pa.table({"path": not_utf8([b"1.png", BAD]), "text": ["a", "b"]}), tmp_path / "a.parquet")
    assert reasons(tmp_path) == {1: "not_utf8"}


@pytest.mark.parametrize("name", ["a\0.png", "loop.png", "x" * 300])
def test_a_path_that_no_system_takes_is_a_row_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "metadata.jsonl").write_text(json.dumps({"path": name, "text": "x"}))
    assert reasons(tmp_path) == {0: "no_image"}
