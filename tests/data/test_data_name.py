"""One data set has one name, however its address is spelled; other columns of it have another."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmdiff.data.encode.data_name import data_name
from llmdiff.data.sources import Columns


@pytest.mark.parametrize(
    ("spellings", "expected"),
    [
        (("s3://b/photos", "s3://b/photos/", "S3://b/photos"), "s3://b/photos"),
        (("hf:o/n", "hf://datasets/o/n", "hf://datasets/o/n/"), "hf://datasets/o/n"),
        (("hf://datasets/o/n/two  spaces/",), "hf://datasets/o/n/two  spaces"),
        (("hf:o/n@v1", "hf://datasets/o/n@v1"), "hf://datasets/o/n@v1"),
        (("hf:o/n:train",), "hf:o/n:train"),
        (("hf:o/n@v1:train",), "hf:o/n@v1:train"),
        (
            ("https://host/a.tar https://host/b.tar", "https://host/a.tar?key=1  https://host/b.tar/"),
            "https://host/a.tar https://host/b.tar",
        ),
    ],
)
def test_spellings_of_one_address_are_one_data_set(spellings: tuple[str, ...], expected: str) -> None:
    assert {data_name(each) for each in spellings} == {expected}


def test_a_path_is_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert {data_name(each) for each in ("photos", "photos/", "./photos", str(tmp_path / "photos"))} == {
        str(tmp_path.resolve() / "photos")
    }


def test_chosen_columns_are_in_the_name() -> None:
    """Names of columns count in any case; where none is named, every caption of a row is read as it was."""
    names = {
        Columns(): "s3://b/a",
        Columns(every=True): "s3://b/a",
        Columns(captions=("Title",)): "s3://b/a --caption-column title",
        Columns(captions=("title", "alt text")): "s3://b/a --caption-column title --caption-column 'alt text'",
        Columns(captions=("title",), every=True, image="jpg"): (
            "s3://b/a --caption-column title --image-column jpg --every-caption"
        ),
        Columns(lines=True): "s3://b/a --caption-lines",
    }
    assert {columns: data_name("s3://b/a", columns) for columns in names} == names
