"""Text files of rows: captions alone, or pictures with captions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmdiff.data.rejects import BadRow
from llmdiff.data.sources import Row, SourceShard, open_source
from tests.data.pictures import encoded, picture

PNG = encoded(picture())
BAD = "ein Kätzchen".encode("latin-1")


def one(file: Path) -> SourceShard:
    (shard,) = open_source(file)
    assert shard.count == len(list(shard.rows()))
    return shard


def captions(file: Path) -> dict[int, str]:
    rows = one(file).rows()
    return {number: row.caption if isinstance(row, Row) else row.reason for number, row in rows}


def test_a_text_file_has_a_caption_a_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("\ufeffa cat\r\n\n  ein Kätzchen \nline\u2028separator".encode())
    assert captions(tmp_path / "a.txt") == {0: "a cat", 1: "ein Kätzchen", 2: "line\u2028separator"}
    assert not one(tmp_path / "a.txt").has_pictures


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", 'id,Prompt\n1,"a cat, sitting"\n2,say ""hi""\n'),
        ("a.tsv", 'Prompt\tCategory\na cat, sitting\tx\nsay ""hi""\ty\n'),
        ("a.jsonl", '{"id": 1, "TEXT": "a cat, sitting"}\n\n{"TEXT": "say \\"\\"hi\\"\\""}'),
    ],
)
def test_captions_alone(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    assert captions(tmp_path / name) == {0: "a cat, sitting", 1: 'say ""hi""'}
    assert not one(tmp_path / name).has_pictures
    assert next(iter(one(tmp_path / name).rows())) == (0, Row(0, None, "a cat, sitting"))


def test_a_quotation_mark_in_a_tsv_is_the_captions_own(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text('Prompt\tNote\n"open\tx\nnext "one"\ty\n')
    assert captions(tmp_path / "a.tsv") == {0: '"open', 1: 'next "one"'}


@pytest.mark.parametrize(("name", "separator"), [("photos.csv", ","), ("photos.tsv", "\t")])
def test_a_table_with_both_columns_is_like_metadata(tmp_path: Path, name: str, separator: str) -> None:
    (tmp_path / "1.png").write_bytes(PNG)
    lines = [("File_Name", "Caption"), ("1.png", "a cat"), ("http://x/2.png", "a dog"), ("../3.png", "a fox")]
    (tmp_path / name).write_text("".join(separator.join(line) + "\n" for line in lines))
    shard = one(tmp_path / name)
    assert shard.has_pictures
    (_, first), (_, second), (_, third) = shard.rows()
    assert first == Row(0, PNG, "a cat")
    assert second == Row(1, "http://x/2.png", "a dog")
    assert isinstance(third, BadRow)
    assert third.reason == "outside_folder"


def test_metadata_without_pictures_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "metadata.csv").write_text("filename,text\n1.png,a cat\n")
    assert captions(tmp_path / "metadata.csv") == {0: "no_image"}


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "metadata.jsonl"])
def test_a_table_without_captions_names_the_columns_it_has(tmp_path: Path, name: str) -> None:
    header = json.dumps({"id": 1, "titel": 2}) if name.endswith("l") else f"id{',' if 'csv' in name else chr(9)}titel"
    (tmp_path / name).write_text(header + "\n1")
    (shard,) = open_source(tmp_path)
    with pytest.raises(ValueError, match=f"{name}: expected a column named caption or text or prompt, found id, titel"):
        list(shard.rows())


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("a.txt", [b"a cat", BAD, b"a dog"]),
        ("a.csv", [b"id,text", b"1,a cat", b"2," + BAD, b"3,a dog"]),
        ("a.tsv", [b"id\ttext", b"1\ta cat", b"2\t" + BAD, b"3\ta dog"]),
        ("a.jsonl", [b'{"text": "a cat"}', b'{"text": "' + BAD + b'"}', b'{"text": "a dog"}']),
    ],
)
def test_a_line_that_is_not_utf8_is_a_row_refused(tmp_path: Path, name: str, lines: list[bytes]) -> None:
    (tmp_path / name).write_bytes(b"\n".join(lines))
    assert captions(tmp_path / name) == {0: "a cat", 1: "not_utf8", 2: "a dog"}
    bad = [row for _, row in one(tmp_path / name).rows() if isinstance(row, BadRow)]
    assert "expected UTF-8 text, found byte 0xe4 at " in bad[0].detail
    one(tmp_path / name).content_hash.encode()


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (r'{"text": "half a pair \ud83d"}', "not_utf8"),
        ("[" * 100_000, "broken_metadata"),
        ('{"text": ' + "1" * 5000 + "}", "broken_metadata"),
        ('{"text": 7}', "no_caption"),
        ('{"text": ""}', "empty_caption"),
    ],
)
def test_strange_lines_of_json_are_rows_refused(tmp_path: Path, line: str, reason: str) -> None:
    (tmp_path / "a.jsonl").write_text(line + '\n{"text": "a cat"}')
    assert captions(tmp_path / "a.jsonl") == {0: reason, 1: "a cat"}


def test_a_caption_cut_at_its_comma_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,text\n1,a cat, sitting\n2,a dog,\n")
    assert captions(tmp_path / "a.csv") == {0: "broken_metadata", 1: "a dog"}
