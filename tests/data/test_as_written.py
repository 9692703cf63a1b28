"""Names, quotation marks, lists and facts as programs and people write them: read as they are meant, or told."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pyarrow as pa
import pytest
from PIL import Image

from llmdiff.data.encode import EncoderSet, encode_shard
from llmdiff.data.images import load_image
from llmdiff.data.sources import Columns, list_data, open_source
from pipelines.cli.main import run as run_command
from storage import EncodingStore
from tests.data.file_trees import PNG
from tests.data.found_folders import Content, rows_in, write

PAIR = {"0.png": PNG[0], "0.txt": "a cat"}
NFC, NFD = "\u00e9.png", "e\u0301.png"
FAILED = pa.table({"url": ["http://x"], "caption": ["b"], "status": ["failed"], "error_message": ["HTTP 404"]})
URLS = pa.table({"image": ["http://x/1.png"], "caption": ["c"]})
ELSEWHERE = "its column filename names pictures, which are in pictures/"
NAMES = "captions.txt: expected a caption a line, found names of pictures: "

CASES: dict[str, tuple[dict[str, Content], list[str], dict[str, str]]] = {
    "a list beside a folder with a dot": (
        {**{f"v1.0/{name}": data for name, data in PAIR.items()}, "v1.0.parquet": FAILED},
        ["a cat", "not_fetched"],
        {"v1.0.parquet": "its failed rows are read from it"},
    ),
    "backslashes": ({"m.csv": "file_name,text\na\\0.png,a\n", "a/0.png": PNG[0]}, ["a"], {}),
    "backslashes in Parquet": (
        {"m.parquet": pa.table({"path": ["a\\0.png"], "text": ["a"]}), "a/0.png": PNG[0]},
        ["a"],
        {},
    ),
    "an accent apart": ({"m.csv": f"file_name,text\n{NFC},a\n", NFD: PNG[0]}, ["a"], {}),
    "an accent with its letter": ({"m.csv": f"file_name,text\n{NFD},a\n", NFC: PNG[0]}, ["a"], {}),
    "a quoted TSV": (
        {"m.tsv": 'caption\tn\n"a ""b"", c"\t1\nd\t2\n'},
        ['a "b", c', "d"],
        {},
    ),
    "a TSV of which all is quoted": ({"m.tsv": '"caption"\t"n"\n"a"\t"1"\n'}, ["a"], {}),
    "a quoted TSV of lines": ({"m.tsv": 'caption\tn\n"a\nb"\t1\n"c\td"\t2\n'}, ["a\nb", "c\td"], {}),
    "marks of a TSV's own": ({"m.tsv": 'caption\tn\n"a" b\t1\n"c"\t2\n"d\t3\n'}, ['"a" b', '"c"', '"d'], {}),
    "marks over lines": ({"m.tsv": 'caption\tn\n"a\tb\nc"\td\n'}, ['"a', 'c"'], {}),
    "lists in CSV": (
        {"m.csv": 'caption\n"[""a"", ""b""]"\n"[\'c\']"\n[d]\n"[\'e\' \'f\']"\n[]\n'},
        ["a", "b", "c", "[d]", "['e' 'f']", "no_caption"],
        {},
    ),
    "a list of rows": ({"m.jsonl": '\n[{"text": "a"},\n {"Text": "b"}, 1]'}, ["a", "b", "broken_metadata"], {}),
    "rows by number": (
        {"m.json": '{"0": {"file_name": "1.png", "text": "a"}, "1": {"text": "b"}}', "0.png": PNG[0], "1.png": b"junk"},
        ["a", "b"],
        {"pictures": "1 that no row of the table beside them names: 0.png"},
    ),
    "blanks around names": ({"m.csv": "text, file_name\na, 0.png\n", "0.png": PNG[0]}, ["a"], {}),
    "a Delta table": (
        {"t/_delta_log/0.json": "{}", "t/0.parquet": pa.table({"text": ["gone"]}), "a.jsonl": '{"text": "a"}'},
        ["a"],
        {"t/": "a Delta table, of whose files some may be out of use"},
    ),
    "a column without a name": ({"m.csv": ",caption,\n0,a,\n"}, ["a"], {}),
    "bytes as text": (
        {"m.jsonl": json.dumps({"image": "iVBORw0KGgo" * 9, "text": "a"})},
        ["no_image"],
        {},
    ),
    "names and captions as lines": ({"captions.txt": "image,caption\n0.jpg,a\n0.jpg,b\n"}, [NAMES], {}),
    "names with numbers as lines": ({"captions.txt": "0.jpg#0\ta\n0.JPG#1\tb\n"}, [NAMES], {}),
    "names as lines": ({"captions.txt": "/data/0.png\n"}, [NAMES], {}),
    "captions and names as lines": ({"captions.txt": "a cat\t0.png\na dog\t1.png\n"}, [NAMES], {}),
    "a table as lines": (
        {"captions.txt": "id\tCaption\n1\ta cat\n"},
        ["captions.txt: expected a caption a line, found a table: 'id\\tCaption'"],
        {},
    ),
    "a heading of one line": ({"captions.txt": "text, a\nb\n"}, ["text, a", "b"], {}),
    "lines with a name": ({"captions.txt": "0.jpg, a cat\na photo\n"}, ["0.jpg, a cat", "a photo"], {}),
    "captions of pictures below": (
        {"m.csv": "filename,caption\n0.png,a\n", "pictures/0.png": PNG[0]},
        ["no_caption"],
        {"m.csv": ELSEWHERE},
    ),
    "captions of pictures beside": (
        {"m/m.parquet": pa.table({"filename": ["a\\0.png"], "caption": ["a"]}), "pictures/0.png": PNG[0]},
        ["no_caption"],
        {"m/m.parquet": ELSEWHERE},
    ),
    "captions of pictures before": (
        {"z/m.json": json.dumps([{"filename": "0.png", "caption": "a"}]), "pictures/0.png": PNG[0]},
        ["no_caption"],
        {"z/m.json": ELSEWHERE},
    ),
    "URLs where paths may be": (
        {"m.csv": "image,caption\nhttp://x/1.png,b\n", "a/m.parquet": URLS, "a/0.png": PNG[0], "a/0.txt": "a", **PAIR},
        ["a cat", "a", "c", "b"],
        {},
    ),
    "captions of other pictures": (
        {"m.csv": "source,caption\n9.png,a\n", "pictures/0.png": PNG[0]},
        ["a", "no_caption"],
        {},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_comes_of_it(tmp_path: Path, case: str) -> None:
    files, expected, told = CASES[case]
    write(tmp_path, files)
    found, lines = rows_in(tmp_path)
    assert [row[: len(words)] for row, words in zip(found, expected, strict=True)] == expected
    assert lines.keys() == told.keys()
    for name, words in told.items():
        assert words in lines[name]


@pytest.mark.parametrize("data", [".", "below/.."])
def test_the_folder_one_is_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: str) -> None:
    write(tmp_path, {**{f"data/{name}": content for name, content in PAIR.items()}, "data.parquet": FAILED})
    (tmp_path / "data" / "below").mkdir()
    monkeypatch.chdir(tmp_path / "data")
    rows = [row for shard in open_source(data) for _, row in shard.rows()]
    assert [getattr(row, "caption", getattr(row, "reason", "")) for row in rows] == ["a cat", "not_fetched"]


def test_pictures_of_the_ending_that_is_named(tmp_path: Path) -> None:
    write(tmp_path, {"0.jpg": PNG[0], "0.png": PNG[1], "0.txt": "a", "1.PNG": PNG[1], "1.txt": "b"})
    found, lines = rows_in(tmp_path, Columns(image=".jpg"))
    assert found == ["a", "no_image"]
    assert lines == {"*.png": "2 files: pictures of another ending than the one that is named"}
    assert rows_in(tmp_path, Columns(image="photo"))[0] == ["a", "a", "b"]
    (tmp_path / "0.jpg").unlink()
    write(tmp_path, {"m.tar": {"2.jpg": PNG[0], "2.txt": "c"}})
    found, lines = rows_in(tmp_path, Columns(image="jpg"))
    assert (found, lines["*.txt"]) == (["c"], "2 files: captions of pictures that are not read")


def test_pictures_in_the_cache_of_the_hub(tmp_path: Path) -> None:
    """The hub's files are links to where its cache keeps the bytes; no other link that leads out is followed."""
    write(tmp_path, {"blobs/ab": PNG[0], "blobs/cd": "a cat", "other/ab": PNG[1]})
    (folder := tmp_path / "snapshots" / "0123" / "train").mkdir(parents=True)
    for name, blob in (("0.png", "blobs/ab"), ("0.txt", "blobs/cd"), ("1.png", "other/ab"), ("1.txt", "blobs/cd")):
        (folder / name).symlink_to(f"../../../{blob}")
    assert rows_in(folder.parent)[0] == ["a cat", "outside_folder"]


LINES = {"0.png": PNG[0], "0.txt": "a\n\n b\r\nc\n", "1.png": PNG[1], "1.caption": "d"}
LINES |= {"2.png": PNG[2], "2.json": '{"text": "e\\nf"}', "3.png": PNG[0], "3.txt": ""}


@pytest.mark.parametrize("layout", [LINES, {"a.tar": LINES}], ids=["a folder", "a tar"])
def test_a_caption_a_line_where_that_is_asked_for(tmp_path: Path, layout: dict[str, Content]) -> None:
    write(tmp_path, layout)
    assert rows_in(tmp_path)[0] == ["a\n\n b\r\nc", "d", "e\nf", "empty_caption"]
    assert rows_in(tmp_path, Columns(lines=True))[0] == ["a", "b", "c", "d", "e\nf", "empty_caption"]
    assert rows_in(tmp_path, Columns(lines=True, captions=("txt",)))[0][:3] == ["a", "b", "c"]
    (whole,), (by_lines,) = (open_source(tmp_path, Columns(lines=lines)) for lines in (False, True))
    assert whole.content_hash != by_lines.content_hash
    assert repr(Columns()) == "Columns(captions=(), every=False, image=None)", "remote data are known by it"
    assert Columns().key == repr(Columns()) != Columns(lines=True).key


def test_a_refused_row_names_its_file(store: EncodingStore, encoders: EncoderSet, tmp_path: Path) -> None:
    """A row is named by its file where its number in a folder or a tar says nothing."""
    beside = {"0.png": b"", "1.png": PNG[0], "1.txt": "", "2.png": b"junk", "3.png": PNG[0]}
    beside |= {
        "0.txt": "a",
        "2.txt": "b",
        "3.json": '{"caption": "c", "Caption": "d"}',
        "4.png": PNG[1],
        "4.json": "{}",
    }
    write(tmp_path, {"a.tar": dict(sorted(beside.items())), **{f"b/{name}": data for name, data in beside.items()}})
    for shard in open_source(tmp_path):
        report = encode_shard(store, shard, encoders)
        assert report.rows == report.rejected.total() == 5
        for i, bad in enumerate(sorted(report.examples)):
            assert f" row {i}: " in bad
            assert f"{i}." in bad.partition(": ")[2] or f"{i}: " in bad.partition(": ")[2] or f"'{i}'" in bad


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_a_picture_whose_exif_is_damaged_is_read(kind: str) -> None:
    data = io.BytesIO()
    Image.new("RGB", (16, 16), "red").save(data, kind, exif=b"Exif\0\0junkjunk")
    assert load_image(data.getvalue(), 8)[0].shape == (8, 8, 3)


def test_two_data_sets_at_once_and_patterns_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        run_command(["encode", "--data", "a", "--store", "s", "--data", "b"])
    assert ended.value.code == 2
    assert (
        "--data: expected one file, folder or address, found 2: run the command once for each"
        in capsys.readouterr().err
    )
    for pattern in ("*.tar", "{0..3}.tar"):
        with pytest.raises(FileNotFoundError, match="no pattern but those of https:// is read: name the folder"):
            list_data(pattern)
