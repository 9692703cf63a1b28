"""What a folder holds: every layout that people bring, and a word about all that is not read."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pyarrow as pa
import pytest

from llmdiff.data.sources import Row, list_data, open_source
from tests.data.layouts import LAYOUTS, PAIRS, PNG, refused, samples, sidecars
from tests.data.pictures import write_imagefolder, write_tar


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_samples(tmp_path: Path, layout: str) -> None:
    LAYOUTS[layout](tmp_path)
    assert samples(tmp_path) == sorted(PAIRS)
    shards = open_source(tmp_path)
    assert sum(shard.count for shard in shards) == sum(len(list(shard.rows())) for shard in shards)
    assert all(len(shard.content_hash) == 64 and shard.has_pictures for shard in shards)


@pytest.mark.parametrize("layout", ["img2dataset files", "img2dataset webdataset"])
def test_what_img2dataset_did_not_get_is_refused_and_its_list_is_named(tmp_path: Path, layout: str) -> None:
    LAYOUTS[layout](tmp_path)
    assert refused(tmp_path) == ["not_fetched: http://x/gone: img2dataset says failed_to_download: HTTP 404"]
    beside = {"*.json"} if layout == "img2dataset files" else set()
    assert set(list_data(tmp_path).passed_over) == {"00000.parquet", *beside}


def test_a_picture_without_a_caption_and_a_caption_without_a_picture_are_refused(tmp_path: Path) -> None:
    sidecars("txt", str.encode)(tmp_path)
    (tmp_path / "alone.JPG").write_bytes(PNG[0])
    (tmp_path / "requirements.txt").write_text("torch")
    (tmp_path / "LICENSE").write_text("none")
    assert [line.partition(",")[0] for line in refused(tmp_path)] == [
        "no_caption: expected a caption beside alone.JPG",
        "no_image: expected a picture beside requirements.txt",
    ]
    assert len(samples(tmp_path)) == 4


def test_a_caption_of_two_lines_is_one_caption(tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(PNG[0])
    (tmp_path / "1.txt").write_text("a red circle\non white\n")
    assert samples(tmp_path) == [(PNG[0], "a red circle\non white")]


def test_sidecars_are_cut_by_folder_and_by_number(tmp_path: Path) -> None:
    from llmdiff.data.sources.folders.sidecars import sidecar_shards

    for name in ("10_cat", "deep/er"):
        (tmp_path / name).mkdir(parents=True)
        sidecars("txt", str.encode)(tmp_path / name)
    assert [shard.name for shard in open_source(tmp_path)] == ["10_cat/", "deep/er/"]
    cut = list(sidecar_shards(tmp_path / "10_cat", "x", samples_per_shard=3))
    assert [(shard.name, shard.count) for shard in cut] == [("x/[0:3]", 3), ("x/[3:4]", 1)]


def test_a_tar_with_dots_in_its_keys_and_with_a_key_twice(tmp_path: Path) -> None:
    file = tmp_path / "a.tar"
    with tarfile.open(file, "w") as tar:
        for name, data in [
            *(("ver1.0.png", PNG[0]), ("ver1.0.txt", b"one")),
            *(("ver1.1.png", PNG[1]), ("ver1.1.txt", b"two")),
            *(("2.jpg", PNG[2]), ("2.seg.png", PNG[3]), ("2.txt", b"three"), ("2.npy", b"numbers")),
            *(("dup.png", PNG[0]), ("dup.txt", b"first"), ("dup.png", PNG[1]), ("dup.txt", b"second")),
            *(("x.jxl", b"\xff\n"), ("x.txt", b"jxl")),
        ]:
            (tmp_path / "member").write_bytes(data)
            tar.add(tmp_path / "member", name)
    found = {row.caption: row.image for shard in open_source(file) for _, row in shard.rows() if isinstance(row, Row)}
    assert found == {"one": PNG[0], "two": PNG[1], "three": PNG[2], "first": PNG[0], "second": PNG[1], "jxl": b"\xff\n"}
    assert [line.partition(":")[0] for line in refused(file)] == ["no_caption"]
    assert open_source(file)[0].unread == ("1 members *.npy",)


def test_members_that_do_not_follow_one_another_are_told(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", {"1.png": PNG[0], "2.png": PNG[1], "1.txt": "one", "2.txt": "two"})
    assert all("members of one key must follow one another" in line for line in refused(tmp_path))


def test_links_hidden_folders_and_stores(tmp_path: Path) -> None:
    data, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    for folder in (data / ".ipynb_checkpoints", data / "store", elsewhere):
        folder.mkdir(parents=True)
        (folder / "x.jsonl").write_text(json.dumps({"caption": f"of {folder.name}"}))
    (data / "store" / "store.json").write_text("{}")
    (data / "part").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(data)
    assert samples(data) == [(b"", "of elsewhere")]
    assert list_data(data).passed_over == {
        ".ipynb_checkpoints/": "a hidden folder",
        "part/back/": f"a link that leads back to {data}",
        "store/": "an encoding store",
    }


def test_a_picture_that_is_a_link_out_of_the_data_is_told(tmp_path: Path) -> None:
    (tmp_path / "0.png").write_bytes(PNG[0])
    data = tmp_path / "data"
    data.mkdir()
    (data / "0.png").symlink_to(tmp_path / "0.png")
    (data / "metadata.jsonl").write_text(json.dumps({"file_name": "0.png", "text": "a"}))
    assert refused(data) == [
        f"outside_folder: expected a file below {data}, found '0.png', a link that leads out of it"
    ]


def test_captions_beside_pictures_that_a_table_names_are_told(tmp_path: Path) -> None:
    write_imagefolder(tmp_path, PAIRS)
    sidecars("txt", lambda caption: b"other")(tmp_path)
    (tmp_path / "README.txt").write_text("About these pictures.")
    assert samples(tmp_path) == sorted(PAIRS)
    assert list_data(tmp_path).passed_over == {
        "*.txt": "4 files: metadata.jsonl names the pictures; their captions are read there",
        "README.txt": "a text file beside other data; name it itself to have its lines as captions",
    }


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "utf-8-sig"])
@pytest.mark.parametrize("ending", ["txt", "csv", "tsv", "jsonl"])
def test_text_is_read_by_its_mark_or_refused(tmp_path: Path, encoding: str, ending: str) -> None:
    lines = {"txt": "ein Kätzchen\r\na cat", "jsonl": '{"text": "ein Kätzchen"}\r\n{"text": "a cat"}'}
    file = tmp_path / f"a.{ending}"
    file.write_bytes(lines.get(ending, "text\r\nein Kätzchen\r\na cat").encode(encoding))
    if encoding == "utf-16-le":
        with pytest.raises(ValueError, match=rf"a\.{ending}: expected UTF-8 text, found NUL bytes: UTF-16 without"):
            samples(file)
        return
    assert samples(file) == [(b"", "a cat"), (b"", "ein Kätzchen")]


@pytest.mark.parametrize("ending", ["txt", "csv", "tsv", "jsonl"])
def test_lines_that_end_as_on_an_old_mac(tmp_path: Path, ending: str) -> None:
    lines = {"txt": "one\rtwo", "jsonl": '{"text": "one"}\r{"text": "two"}'}
    (tmp_path / f"a.{ending}").write_text(lines.get(ending, "text\rone\rtwo"), newline="")
    assert samples(tmp_path) == [(b"", "one"), (b"", "two")]


def test_a_quotation_mark_too_many_costs_its_own_row_alone(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('caption,n\n"a red circle,1\na blue square,2\n"two\nlines",3\n"last",4\n')
    assert [caption for _, caption in samples(tmp_path)] == ["a blue square", "last", "two\nlines"]
    (told,) = refused(tmp_path)
    assert told.startswith("broken_metadata: line 2: expected separated values: ")


def test_a_field_that_is_too_long_costs_its_own_row_alone(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f"caption\nshort\n{'word ' * 30_000}\nshort too\n")
    assert [caption for _, caption in samples(tmp_path)] == ["short", "short too"]
    (told,) = refused(tmp_path)
    assert told.startswith("broken_metadata: line 3: expected separated values: field larger than")


@pytest.mark.parametrize("kind", [pa.list_view(pa.string()), pa.large_list_view(pa.string())])
def test_list_views_of_captions(tmp_path: Path, kind: pa.DataType) -> None:
    captions = pa.array([["one", "two"], ["three"]], kind)
    table = pa.table({"caption": captions})
    with pa.ipc.new_file(tmp_path / "a.arrow", table.schema) as writer:
        writer.write_table(table)
    (shard,) = open_source(tmp_path)
    assert shard.count == 3
    assert [caption for _, caption in samples(tmp_path)] == ["one", "three", "two"]
