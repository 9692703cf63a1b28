"""Nothing is passed over in silence: every file below the data's path is rows, rejects, or counted in a line."""

from __future__ import annotations

import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings

from llmdiff.data.encode import EncoderSet, encode_shard
from llmdiff.data.rejects import LONGEST, BadRow, printable
from llmdiff.data.sources import Listing, SidecarShard, SourceShard, UnreadableShard, list_data, open_source, shards_of
from llmdiff.data.sources.folders.sidecars import samples_in
from llmdiff.data.sources.kinds import is_picture, is_text, kind_of
from llmdiff.data.sources.listing import NOT_DATA
from llmdiff.data.sources.unread_files import unnamed_pictures
from storage import EncodingStore
from tests.data.file_trees import PICTURES, PNG, ROWS, TEXTS, trees, write
from tests.examples import examples


def files_below(folder: Path, above: tuple[Path, ...] = ()) -> list[Path]:
    """Every file but those in hidden folders; a linked folder is gone into, unless it leads back."""
    found = []
    for path in sorted(folder.iterdir()):
        if not path.is_dir():
            found.append(path)
        elif not path.name.startswith(".") and path.resolve() not in (*above, folder.resolve()):
            found += files_below(path, (*above, folder.resolve()))
    return found


def looks_like_data(name: str) -> bool:
    return is_picture(name) or is_text(name) or bool(kind_of(name))


def counted(lines: dict[str, str]) -> int:
    """How many files the lines about kinds of files count."""
    return sum(int(n) for kind, line in lines.items() if kind != "pictures" for n in re.findall(r"(\d+) files: ", line))


def told_by_name(lines: dict[str, str], root: Path) -> int:
    return sum((root / name).is_file() or (root / name).is_symlink() for name in lines if not name.endswith("/"))


def check_files(root: Path, listed: Listing, shards: list[SourceShard], lines: dict[str, str]) -> None:
    samples = [(shard.folder, each) for shard in shards if isinstance(shard, SidecarShard) for each in shard.samples]
    refused = {shard.name for shard in shards if isinstance(shard, UnreadableShard)}  # two texts of one picture
    samples += [(file, each) for file, name in listed.files if f"{name}/" in refused for each in samples_in(file)]
    pictures = [(folder, name) for folder, (name, _) in samples if name is not None]
    captions = {(folder, names[0]) for folder, (_, names) in samples if names}
    left = [(folder, name) for folder, names in listed.pictures.items() for name in names]
    files = files_below(root)
    assert sorted(pictures + left) == sorted((file.parent, file.name) for file in files if shown_picture(file))
    tables = [file for file, _ in listed.files if not file.is_dir()]
    silent = [file for file in files if is_silent(file)]
    accounted = len(pictures) + len(captions) + len(left) + len(tables) + len(silent)
    assert accounted + counted(lines) + told_by_name(lines, root) == len(files)


def shown_picture(file: Path) -> bool:
    return is_picture(file) and not file.name.startswith(".")


def is_silent(file: Path) -> bool:
    """What is known to be no data: hidden files, and what tools say about data beside them."""
    if file.name.startswith("."):
        return not looks_like_data(file.name)
    return file.name in NOT_DATA or file.name.endswith("_stats.json")


@settings(max_examples=examples(150), deadline=None)
@given(tree=trees())
def test_every_file_is_accounted_for_once(tree: list[Any]) -> None:
    with tempfile.TemporaryDirectory(dir=os.environ["LLMDIFF_CACHE"]) as folder:
        root = Path(folder, "data")
        root.mkdir()
        write(root, tree)
        listed = list_data(root, may_be_empty=True)
        shards = shards_of(listed.files)
        check_files(root, listed, shards, listed.passed_over | unnamed_pictures(listed.pictures, shards))
        for shard in shards:
            numbers = row_numbers(shard)
            if numbers is None:
                assert may_be_refused(root / shard.name, root, tree)
            else:
                assert numbers == list(range(shard.count))


def row_numbers(shard: SourceShard) -> list[int] | None:
    """Return the numbers of a shard's rows; None where it can't be read, which the run tells."""
    try:
        return [number for number, _ in shard.rows()]
    except ValueError:
        return None


def may_be_refused(shard: Path, root: Path, tree: list[Any]) -> bool:
    """Return whether a shard is of a tar that is cut off, a table with two columns of captions or none, or a folder.

    Of two files of one name the later one was written.
    """
    root = root.resolve()
    written = {root / folder / (stem + ending): (kind, content) for folder, (kind, stem, ending, content) in tree}
    kind, content = written.get(shard.resolve(), ("folder", None))
    if kind in ("scores", "text"):
        return content != "text"
    return (kind in ("parquet", "tar") and bool(content[1])) or (kind == "folder" and shard.is_dir())


EVERYTHING = [
    *(("", ("picture", stem, ".png", content)) for stem, content in zip("0123", PICTURES, strict=True)),
    *(("a", ("text", stem, ".txt", text)) for stem, text in zip("01", TEXTS[1:], strict=False)),
    ("a", ("picture", "0", ".png", PNG[2])),
    ("", ("csv", "y", ".csv", [*ROWS])),
    ("c", ("parquet", "a", ".parquet", ([*ROWS], 0))),
    ("c", ("tar", "t", ".tar", (6, True))),
]


def test_every_row_is_known_new_or_refused(store: EncodingStore, encoders: EncoderSet, tmp_path: Path) -> None:
    write(tmp_path, EVERYTHING)
    (tmp_path / "c" / "link").symlink_to(tmp_path / "a")
    shards = [shard for folder in ("", "a") for shard in open_source(tmp_path / folder)]
    assert len({type(shard) for shard in shards}) == 4
    for shard in shards:
        done: list[int] = []
        report = encode_shard(store, shard, encoders, done.append)
        found = report.known + report.samples + report.rejected.total()
        assert report.rows == found == shard.count == sum(done) == len(list(shard.rows()))


def test_a_picture_is_named_by_its_path_from_the_root_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = Path("data")
    data.mkdir()
    (data / "0.png").write_bytes(PNG[0])
    rows = [{"file_name": str(tmp_path / "data/0.png"), "text": "a"}, {"file_name": "1.png", "text": "b"}]
    (data / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    listed = list_data(data)
    (shard,) = shards_of(listed.files)
    assert unnamed_pictures(listed.pictures, [shard]) == {}


def test_pictures_that_no_row_names_are_counted(tmp_path: Path) -> None:
    for name in ("0.png", "1.png", "below/2.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(PNG[0])
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "./0.png", "text": "a"}\n{"file_name": "gone.png"}\n{}')
    listed = list_data(tmp_path)
    found = unnamed_pictures(listed.pictures, shards_of(listed.files))
    assert found == {"pictures": "2 that no row of the table beside them names: 1.png, 2.png"}
    pq.write_table(pa.table({"path": ["1.png", "below/2.png"], "text": ["b", "c"]}), tmp_path / "more.parquet")
    listed = list_data(tmp_path)
    assert unnamed_pictures(listed.pictures, shards_of(listed.files)) == {}


def test_what_is_not_read_is_counted_by_its_ending(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "_temporary").mkdir()
    names = ("a.jsonl", "b.zip", "sub/c.ZIP", "README", ".d.csv", ".DS_Store", "sub/e.caption", "state.json")
    for name in (*names, "_temporary/x.jsonl"):
        (tmp_path / name).write_text('{"caption": "x"}')
    os.mkfifo(tmp_path / "pipe.jsonl")
    assert list_data(tmp_path).passed_over == {
        "*.caption": "1 files: a caption without a picture beside it",
        "*.zip": "2 files: of no kind that is read",
        ".*.csv": "1 files: hidden",
        "_temporary/": "the work of a job that has not ended",
        "names without an ending": "1 files: of no kind that is read",
        "pipe.jsonl": "a pipe, a socket or a device, and no file",
    }


def test_captions_that_give_way_to_another_of_their_name_are_counted(tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(PNG[0])
    for name in ("1.txt", "1.caption", "1.json", "alone.txt", "alone.caption"):
        (tmp_path / name).write_text("a red circle")
    why = "another caption of the same name goes before"
    assert list_data(tmp_path).passed_over == {"*.caption": f"2 files: {why}", "*.json": f"1 files: {why}"}


def test_a_table_of_a_folders_name_is_data_unless_it_is_img2datasets_list(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "1.png").write_bytes(PNG[0])
    pq.write_table(pa.table({"file_name": ["train/1.png"], "text": ["a red circle"]}), tmp_path / "train.parquet")
    assert [shard.name for shard in open_source(tmp_path)] == ["train.parquet"]
    (tmp_path / "train.tar").write_bytes(b"")
    assert "a table of the same name as train.tar" in list_data(tmp_path).passed_over["train.parquet"]


def test_a_store_is_no_data(tmp_path: Path) -> None:
    store = EncodingStore.create(tmp_path / "store")
    with pytest.raises(ValueError, match=r"store: expected .*, found an encoding store \(store.json\)"):
        list_data(store.path)


def test_a_name_that_is_no_utf8_costs_no_other_row(store: EncodingStore, encoders: EncoderSet, tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    folder.mkdir()
    for name in ("1", os.fsdecode(b"\xfe"), "2\n\x1b[31m"):
        (folder / f"{name}.png").write_bytes(PNG[0])
    (folder / "1.txt").write_text("a red circle")
    (shard,) = open_source(tmp_path)
    report = encode_shard(store, shard, encoders)
    assert (shard.name, report.samples, dict(report.rejected)) == ("\\udcff/", 1, {"no_caption": 2})
    details = [reject["detail"] for reject in store.rejects().to_pylist()]
    assert [detail.partition(",")[0] for detail in details] == [
        "expected a caption beside 2\\n\\x1b[31m.png",
        "expected a caption beside \\udcfe.png",
    ]


def test_a_detail_is_short_and_printable() -> None:
    bad = BadRow("no_image", "x" * 10_000_000)
    assert len(bad.detail) < LONGEST
    assert bad.detail.endswith("x… (10000000 characters)")
    assert BadRow("no_image", bad.detail).detail == bad.detail
    assert printable("a\x00b\x9b\u2028ü\\n") == "a\\x00b\\x9b\\u2028ü\\n"
