"""The table of data in the tutorial, line by line: every ending and every column that it names is read as it says."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import re
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmdiff.data.sources import Row, Url, open_source
from tests.data.pictures import encoded, picture, write_tar
from tests.docs.pages import DOCS

PAGE = (DOCS / "tutorials" / "your-data.md").read_text()
LINES = [[cell.strip() for cell in line.strip("|").split("|")] for line in re.findall(r"^\|.*\|$", PAGE, re.MULTILINE)]
TABLE = {cells[0]: cells[1:] for cells in LINES[2:]}
"""Pictures and captions by data."""
PACKED = re.findall(r"`([^`]+)`", PAGE[PAGE.index("Text and tar files may be compressed") :].partition("Text is")[0])
PICTURE = encoded(picture())
CAPTION = "ein rotes Kätzchen"
TEXT_COLUMNS = ("caption", "text", "prompt")
URL = "http://localhost/1.png"

Input = tuple[str, Callable[[Path], None], object]
"""What it shows, how it is written, and the picture that comes of it."""


def words(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def write(folder: Path, **files: bytes | str) -> None:
    for name, content in files.items():
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)


def beside(pictures: str, captions: str) -> Iterator[Input]:
    for image in words(pictures):
        for text in words(captions):
            content = json.dumps({"text": CAPTION}) if text.endswith("json") else CAPTION
            yield f"{image} {text}", lambda f, i=image, t=text, c=content: write(f, **{i: PICTURE, t: c}), PICTURE
    whole = f"{CAPTION}\n{CAPTION}"
    yield "of two lines", lambda f: write(f, **{"1.png": PICTURE, "1.txt": whole}), PICTURE


def table_text(ending: str, row: dict[str, str]) -> str:
    if ending == ".jsonl":
        return json.dumps(row)
    separator = "\t" if ending == ".tsv" else ","
    return f"{separator.join(row)}\n{separator.join(row.values())}\n"


def tables(names: list[str], pictures: list[str], captions: list[str]) -> Iterator[Input]:
    for name in names:
        for image in pictures:
            for text in captions:
                row = {image.upper(): "1.png", text.title(): CAPTION}
                content = table_text(Path(name).suffix, row)
                yield (
                    f"{name} {image} {text}",
                    lambda f, n=name, c=content: write(f, **{n: c, "1.png": PICTURE}),
                    PICTURE,
                )
        content = table_text(Path(name).suffix, {pictures[0]: URL, captions[0]: CAPTION})
        yield f"{name} of URLs", lambda f, n=name, c=content: write(f, **{n: c}), Url(URL)


def imagefolder(pictures: str, captions: str) -> Iterator[Input]:
    (line,) = (line for line in TABLE if line.startswith("imagefolder"))
    yield from tables(words(line), words(pictures), words(captions))


def other_tables(pictures: str, captions: str) -> Iterator[Input]:
    (line,) = (line for line in TABLE if line.startswith("any other"))
    names = [f"photos{ending}" for ending in words(line)]
    yield from tables(names, ["file_name", "image_path"], list(TEXT_COLUMNS))
    for name in names:
        content = table_text(Path(name).suffix, {"caption": CAPTION})
        yield f"{name} of captions", lambda f, n=name, c=content: write(f, **{n: c}), None
        for packed in PACKED:
            yield f"{name}{packed}", lambda f, n=name, p=packed, c=content: write(f, **{n + p: pack(p, c)}), None


def pack(ending: str, content: str | bytes) -> bytes:
    data = content.encode() if isinstance(content, str) else content
    packers = {".gz": gzip.compress, ".bz2": bz2.compress}
    return packers[ending](data) if ending in packers else pa.Codec("zstd").compress(data, asbytes=True)


def columns(pictures: str, captions: str) -> Iterator[Input]:
    struct = pa.array([{"bytes": PICTURE, "path": None}], pa.struct({"bytes": pa.binary(), "path": pa.string()}))
    for image in words(pictures):
        value: object = PICTURE
        if image in ("file_name", "image_path", "path"):
            value = "1.png"
        elif image.endswith("url"):
            value = URL
        found = Url(URL) if value == URL else PICTURE
        for text in TEXT_COLUMNS:
            yield f"{image} {text}", columnar(pa.table({image: [value], text: [CAPTION]})), found
    yield "a struct", columnar(pa.table({"image": struct, "text": [CAPTION]})), PICTURE
    yield "a list", columnar(pa.table({"image": [PICTURE], "text": [[CAPTION, CAPTION]]})), PICTURE
    yield "no pictures", columnar(pa.table({"text": [CAPTION]})), None


def columnar(table: pa.Table) -> Callable[[Path], None]:
    def layout(folder: Path) -> None:
        write(folder, **{"1.png": PICTURE})
        for name in ("parquet", "arrow"):
            (folder / name).mkdir()
            write(folder / name, **{"1.png": PICTURE})
        pq.write_table(table, folder / "parquet" / "a.parquet")
        with pa.ipc.new_stream(folder / "arrow" / "a.arrow", table.schema) as writer:
            writer.write_table(table)
        (folder / "1.png").unlink()
        if not any(
            pa.types.is_string(field.type) and field.name in ("file_name", "image_path", "path")
            for field in table.schema
        ):
            for name in ("parquet", "arrow"):
                (folder / name / "1.png").unlink()

    return layout


def json_files(pictures: str, captions: str) -> Iterator[Input]:
    for name, content in {
        "a list": [{"image": "1.png", "caption": CAPTION}],
        "by name": {"1.png": {"caption": CAPTION}},
        "by name without ending": {"1": CAPTION},
        "tags": {"1": {words(captions)[0]: CAPTION}},
    }.items():
        text = json.dumps(content)
        yield name, lambda f, c=text: write(f, **{"rows.json": c, "1.png": PICTURE}), PICTURE
    yield "captions alone", lambda f: write(f, **{"rows.json": json.dumps([{"caption": CAPTION}])}), None


def tars(pictures: str, captions: str) -> Iterator[Input]:
    for image in words(pictures):
        for text in words(captions):
            content = json.dumps({"prompt": CAPTION}) if text == ".json" else CAPTION
            members: dict[str, bytes | str] = {f"1{image}": PICTURE, f"1{text}": content}
            yield f"{image} {text}", lambda f, m=members: write_tar(f / "0.tar", m) and None, PICTURE
    for packed in PACKED:
        yield packed, lambda f, p=packed: write(f, **{f"0.tar{p}": pack(p, one_tar())}), PICTURE


def one_tar() -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for name, content in (("1.png", PICTURE), ("1.txt", CAPTION.encode())):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return data.getvalue()


def texts(pictures: str, captions: str) -> Iterator[Input]:
    yield "a line", lambda f: write(f, **{"a.txt": CAPTION}), None
    for packed in PACKED:
        yield packed, lambda f, p=packed: write(f, **{f"a.txt{p}": pack(p, CAPTION)}), None


BEGINNINGS: dict[str, Callable[[str, str], Iterator[Input]]] = {
    "a folder of pictures": beside,
    "imagefolder": imagefolder,
    "Parquet, Arrow": columns,
    "any other": other_tables,
    "`.json`": json_files,
    "WebDataset": tars,
    "`.txt`": texts,
}


def inputs_of(line: str) -> list[Input]:
    (make,) = (make for beginning, make in BEGINNINGS.items() if line.startswith(beginning))
    return list(make(*TABLE[line]))


@pytest.mark.parametrize("line", TABLE, ids=lambda line: line.partition(",")[0])
def test_a_line_of_the_table_is_true(tmp_path: Path, line: str) -> None:
    for i, (shown, layout, image) in enumerate(inputs_of(line)):
        (folder := tmp_path / str(i)).mkdir()
        layout(folder)
        rows = [row for shard in open_source(folder) for _, row in shard.rows()]
        assert rows, shown
        for row in rows:
            assert isinstance(row, Row), (shown, row)
            assert (row.image, row.caption.partition("\n")[0]) == (image, CAPTION), shown
