"""Small folders as tools and people leave them: the rows that come of each, and what is said of the rest."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pyarrow as pa
import pytest

from llmdiff.data.rejects import BadRow
from llmdiff.data.sources import Columns, list_data, shards_of
from tests.data.file_trees import PNG
from tests.data.found_folders import Content, rows_in, write
from tests.data.pictures import write_tar

POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'a' * 64}\nsize 12345\n"
STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
PICTURES = {"0.png": PNG[0], "1.png": PNG[1]}
PAIRS = {**PICTURES, "0.txt": "a cat", "1.txt": "a dog"}


def downloads(*states: str) -> pa.Table:
    """Rows of img2dataset."""
    rows = [
        {"url": f"http://x/{i}", "caption": f"of {i}", "status": state, "error_message": "HTTP 404"}
        for i, state in enumerate(states)
    ]
    return pa.Table.from_pylist(rows)


SIDECARS: dict[str, tuple[dict[str, Content], list[str], dict[str, str]]] = {
    "named after the whole picture": (
        {**PICTURES, "0.png.txt": "a cat", "1.png.json": '{"caption": "a dog"}', "gone.jpg.txt": "alone"},
        ["a cat", "a dog", "no_image"],
        {},
    ),
    "two pictures of a stem": (
        {"1.jpg": PNG[0], "1.png": PNG[1], "1.jpg.txt": "of jpg", "1.png.txt": "of png"},
        ["of jpg", "of png"],
        {},
    ),
    "two of an ending": ({**PAIRS, "1.TXT": "first", "0.png.txt": "second"}, ["a cat", "first"], {"*.txt": "2 files"}),
    "pointers": ({"0.png": PNG[0], "0.txt": POINTER}, ["no_caption"], {}),
    "JSON of other keys": ({"0.png": PNG[0], "0.json": '{"tags": "a"}'}, ["no_caption"], {}),
    "a key twice": ({"0.png": PNG[0], "0.json": '{"caption": "a", "Caption": "b"}'}, ["broken_metadata"], {}),
    "scores beside": (
        {**PAIRS, "scores.csv": "path,score\n0.png,5\n", "clip.parquet": pa.table({"image_path": ["0.png"], "s": [1]})},
        ["a cat", "a dog"],
        {"scores.csv": "no captions; its columns: path, score", "clip.parquet": "its columns: image_path, s"},
    ),
    "scores above": (
        {**{f"a/{name}": data for name, data in PAIRS.items()}, "scores.csv": "path,score\na/0.png,5\n"},
        ["a cat", "a dog"],
        {"scores.csv": "no captions"},
    ),
    "a trainer's cache": (
        {**PAIRS, "sizes.json": '{"0.png": {"size": [1, 2]}}', "info.json": '[{"id": 1}]', "e.json": "[]"},
        ["a cat", "a dog"],
        {"sizes.json": "no captions", "info.json": "expected captions in its columns: id", "e.json": "no table"},
    ),
    "empty metadata": ({**PAIRS, "metadata.jsonl": ""}, ["a cat", "a dog"], {"metadata.jsonl": "no captions"}),
    "a table of bytes": (
        {**PAIRS, "a.parquet": pa.table({"image": [PNG[2]], "path": ["x.png"], "text": ["a fox"]})},
        ["a cat", "a dog", "a fox"],
        {},
    ),
}
TABLES: dict[str, tuple[dict[str, Content], list[str], dict[str, str]]] = {
    "lists by name": ({**PICTURES, "c.json": '{"0.png": ["a", "b"], "1.png": ["c"]}'}, ["a", "b", "c"], {}),
    "nothing by name": (
        {**PICTURES, "c.json": '{"0.png": "a", "1.png": null, "2.png": 7}'},
        ["a", "no_caption", "no_image"],
        {},
    ),
    "a name twice": (
        {**PICTURES, "c.json": '{"0.png": "a", "0.png": "b", "1.png": "c"}'},
        ["broken_metadata", "c"],
        {},
    ),
    "lists of numbers": ({**PAIRS, "boxes.json": '{"0.png": [1, 2]}'}, ["a cat", "a dog"], {"boxes.json": "no table"}),
    "lines of JSON": ({"a.json": '{"text": "a"}\n{"text": "b"}\n{broken\n'}, ["a", "b", "broken_metadata"], {}),
    "a pointer": ({"a.json": POINTER, "b.csv": "text\nb\n"}, ["b"], {"a.json": "a pointer of Git LFS"}),
    "pointers": (
        dict.fromkeys(("a.parquet", "b.tar", "c.csv", "d.txt.gz"), POINTER),
        [
            f"{name}: expected the file itself, found a pointer of Git LFS: `git lfs pull` fetches it"
            for name in ("a.parquet", "b.tar", "c.csv", "d.txt.gz")
        ],
        {},
    ),
    "semicolons": ({**PICTURES, "m.csv": "file_name;caption\n0.png;a, b\n1.png;c\n"}, ["a, b", "c"], {}),
    "tabs": ({"m.csv": "n\tcaption\n1\ta, b\n"}, ["a, b"], {}),
    "bars": ({"m.csv": "n|caption\n1|a; b\n2|c|d\n"}, ["a; b", "broken_metadata"], {}),
    "a column alone": ({"m.csv": "prompt\na; b\nc|d\n"}, ["a; b", "c|d"], {}),
    "a file or a URL": (
        {**PICTURES, "m.csv": "file_name,url,text\n0.png,,a\n,http://x/1,b\n1.png,,c\n"},
        ["a", "b", "c"],
        {},
    ),
    "a column twice": ({"m.csv": "caption,Caption,n\na,b,1\n"}, ["broken_metadata"], {}),
    "another twice": ({"m.csv": "caption,n,n\na,1,2\n"}, ["a"], {}),
    "a key twice": ({"m.jsonl": '{"text": "a", "Text": "b"}\n{"text": "c"}'}, ["broken_metadata", "c"], {}),
    "columns by case": (
        {"m.parquet": pa.table({"TEXT": ["a"], "text": ["b"]})},
        ["m.parquet: expected one column named text, found 2: TEXT, text"],
        {},
    ),
    "an unknown column": (
        {**PICTURES, "c.csv": "filename,caption\n0.png,a\n", "d.parquet": pa.table({"file": ["1.png"], "text": ["b"]})},
        ["no_caption", "no_caption"],
        {"c.csv": "add --image-column filename, or name the file", "d.parquet": "its column file names pictures"},
    ),
    "blanks around": ({"m.csv": "n, caption \n1, a cat \n"}, ["a cat"], {}),
    "structs of paths": (
        {
            **PICTURES,
            "m.parquet": pa.table(
                {"image": pa.array([{"path": "0.png"}, {"path": "1.png"}], STRUCT), "text": ["a", "b"]}
            ),
        },
        ["a", "b"],
        {},
    ),
    "JSON of paths": (
        {**PICTURES, "m.jsonl": '{"image": {"path": "0.png"}, "text": "a"}\n{"image": "1.png", "text": "b"}'},
        ["a", "b"],
        {},
    ),
    "two tables": (
        {**PICTURES, "a.csv": "path,score\n0.png,1\n", "metadata.csv": "file_name,text\n0.png,a\n1.png,b\n"},
        ["a", "b"],
        {"a.csv": "no captions"},
    ),
    "what datasets keeps": (
        {
            "data-00000-of-00001.arrow": pa.table({"text": ["a"]}),
            "data-00000-of-00002.arrow": pa.table({"text": ["of before"]}),
            "cache-0123456789abcdef.arrow": pa.table({"text": ["mapped"]}),
            "state.json": '{"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}',
        },
        ["a"],
        {"data-00000-of-00002.arrow": "state.json does not name it", "cache-0123456789abcdef.arrow": "state.json"},
    ),
    "what its cache keeps": (
        {
            "x-train.arrow": pa.table({"text": ["a"]}),
            "cache-0123456789abcdef_00000_of_00002.arrow": "",
            "dataset_info.json": "{}",
        },
        ["a"],
        {"cache-0123456789abcdef_00000_of_00002.arrow": "of a map or a filter"},
    ),
    "a state of nothing": ({"a.arrow": pa.table({"text": ["a"]}), "state.json": "[]"}, ["a"], {}),
}
DOWNLOADS: dict[str, tuple[dict[str, Content], list[str], dict[str, str]]] = {
    "its Parquet": (
        {"0.parquet": downloads("success", "failed").append_column("jpg", pa.array([PNG[0], None]))},
        ["of 0", "not_fetched"],
        {},
    ),
    "its list alone": ({"0.parquet": downloads("success", "failed")}, ["of 0", "not_fetched"], {}),
    "nothing got": (
        {"0/0.txt": "a", "0.parquet": downloads("failed"), "1.tar": {"1.png": PNG[0], "1.txt": "b"}},
        ["not_fetched", "b"],
        {"0/0.txt": "a text file beside other data"},
    ),
    "a format that is not read": (
        {"0.tfrecord": "x", "0.parquet": downloads("success"), "a.csv": "text\na\n"},
        ["a"],
        {"0.parquet": "with 0.tfrecord, which is not read", "*.tfrecord": "1 files: of no kind"},
    ),
    "a damaged list of a tar": (
        {"0.tar": {"1.png": PNG[0], "1.txt": "a"}, "0.parquet": "PAR1"},
        ["a", "broken_metadata"],
        {"0.parquet": "the list"},
    ),
    "a damaged list of a folder": (
        {"0/1.png": PNG[0], "0/1.txt": "a", "0.parquet": "PAR1"},
        ["a", "broken_metadata"],
        {"0.parquet": "the list"},
    ),
}
CASES = {
    f"{kind}: {name}": case
    for kind, cases in (("sidecars", SIDECARS), ("tables", TABLES), ("img2dataset", DOWNLOADS))
    for name, case in cases.items()
}


@pytest.mark.parametrize("case", CASES)
def test_what_comes_of_a_folder(tmp_path: Path, case: str) -> None:
    files, expected, told = CASES[case]
    write(tmp_path, files)
    found, lines = rows_in(tmp_path)
    assert found == expected
    assert lines.keys() == told.keys()
    for name, words in told.items():
        assert words in lines[name]


def test_a_column_that_names_pictures_is_read_where_it_is_named(tmp_path: Path) -> None:
    write(tmp_path, {**PICTURES, "c.csv": "filename,caption\n0.png,a\n1.png,b\n"})
    assert rows_in(tmp_path, Columns(image="filename")) == (["a", "b"], {})


def test_captions_of_another_ending_than_the_one_named_are_told(tmp_path: Path) -> None:
    write(tmp_path, {**PAIRS, "0.caption": "of another"})
    assert rows_in(tmp_path, Columns(captions=("txt",))) == (
        ["a cat", "a dog"],
        {"*.caption": "1 files: not of the captions that are named"},
    )


TAR = {
    "0.png": PNG[0],
    "0.png.txt": "a cat",
    "1.jpg": PNG[1],
    "1.jpg.json": '{"caption": "a dog"}',
    "1.png.txt": "alone",
}


@pytest.mark.parametrize("packed", [False, True])
def test_tars_one_after_the_other_and_texts_named_after_whole_pictures(tmp_path: Path, packed: bool) -> None:
    file = write_tar(tmp_path / "0.tar", TAR)
    assert rows_in(tmp_path)[0] == ["a cat", "a dog", "no_image"]
    whole = file.read_bytes()
    file.unlink()
    (tmp_path / ("0.tar.gz" if packed else "0.tar")).write_bytes(gzip.compress(2 * whole) if packed else 2 * whole)
    assert rows_in(tmp_path)[0] == ["a cat", "a dog", "no_image", "broken_tar"]
    (shard,) = shards_of(list_data(tmp_path).files)
    bad = [row for _, row in shard.rows() if isinstance(row, BadRow)][-1]
    assert f"and more from byte {len(whole)} on: is it several tars in one file?" in bad.detail


def test_files_whose_names_are_no_utf8_are_read(tmp_path: Path) -> None:
    for i, ending in enumerate(("parquet", "arrow", "csv", "json", "tar", "jsonl.gz")):
        content = {"csv": "text\na", "json": '[{"text": "a"}]', "tar": {"1.png": PNG[0], "1.txt": "a"}}
        content |= {"parquet": pa.table({"text": ["a"]}), "arrow": pa.table({"text": ["a"]})}
        write(tmp_path, {f"x.{ending}": content.get(ending, gzip.compress(b'{"text": "a"}'))})
        (tmp_path / f"x.{ending}").rename(tmp_path / f"{os.fsdecode(bytes([250 + i]))}.{ending}")
    write(tmp_path, {os.fsdecode(b"\xfe.parquet"): b""})
    found, lines = rows_in(tmp_path)
    assert (found.count("a"), len(found)) == (6, 7)
    assert all(line.isprintable() for item in lines.items() for line in item)


def test_what_may_not_be_read_costs_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {"0/1.png": PNG[0], "0.parquet": downloads("failed"), "a.csv": "text\na\n"})
    scandir = os.scandir

    def refuse(folder: Path) -> object:
        if Path(folder).name == "0":
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    found, lines = rows_in(tmp_path)
    assert (found, lines["0/"]) == (["a"], "cannot be read: Permission denied")
    assert "the list that img2dataset left with 0/" in lines["0.parquet"]
