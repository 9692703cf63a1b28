"""What `encode` says of its data before it starts."""

from __future__ import annotations

from pathlib import Path

from llmdiff.data.sources import list_data, shards_of
from llmdiff.data.sources.unread_files import unnamed_pictures
from pipelines.runtime.encode.lines import found_lines
from tests.data.pictures import encoded, picture, write_imagefolder, write_tar

PNG = encoded(picture())


def lines(folder: Path, shown: int = 10) -> list[str]:
    listed = list_data(folder)
    shards = shards_of(listed.files)
    return found_lines(shards, listed.passed_over | unnamed_pictures(listed.pictures, shards), shown)


def test_shards_rows_columns_and_what_is_not_read_are_told(tmp_path: Path) -> None:
    write_imagefolder(tmp_path / "photos", [(PNG, "a red circle"), (PNG, "a blue square")])
    (tmp_path / "photos" / "other.png").write_bytes(PNG)
    write_tar(tmp_path / "0.tar", {"1.png": PNG, "1.txt": "a cat"})
    (tmp_path / "1.jsonl").write_text('{"prompt": "one"}\n{"prompt": "two"}')
    (tmp_path / "2.csv").write_text("caption\n")
    (tmp_path / "3.parquet").write_bytes(b"no such thing")
    assert lines(tmp_path) == [
        "found 5 shards, 2 of them with pictures: 2 rows of a picture and a caption, 2 captions alone",
        "not counted before they are read: rows of 1 shards",
        "columns of 1 shards: prompt",
        "columns of 1 shards: file_name, text",
        "not read: pictures: 1 that no row of the table beside them names: other.png",
        "not read: 2.csv: it has no rows",
    ]


def test_what_is_not_listed_is_counted_by_its_reason(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"caption": "one"}')
    for i in range(4):
        (tmp_path / f".{i}").mkdir()
    (tmp_path / "b.zip").touch()
    assert lines(tmp_path, shown=2)[2:] == [
        "not read: *.zip: 1 files: of no kind that is read",
        "not read: .0/: a hidden folder",
        "not read: 3 more: 3 times a hidden folder",
    ]
