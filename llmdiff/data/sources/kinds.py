"""The kind of a file's content, by its name."""

from __future__ import annotations

from pathlib import Path

from llmdiff.data.remote import DataPath

PICTURES = (
    *("jpg", "jpeg", "jpe", "jfif", "png", "webp", "avif", "gif", "bmp", "tif", "tiff", "ppm"),
    *("heic", "heif", "jxl", "jp2"),
)
"""Endings of pictures; one that Pillow cannot decode here is refused as a row, by name."""
TEXTS = ("txt", "caption")
"""Endings of a picture's caption beside it, or in a tar."""
TABLES = (".parquet", ".arrow", ".jsonl", ".csv", ".tsv", ".txt", ".json")
METADATA_FILES = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
"""Tables of an imagefolder, whose rows name the pictures of their folder and of those below it."""
PACKED = (".gz", ".zst", ".bz2")
TARS = (".tar", ".tgz", *(f".tar{packed}" for packed in PACKED))
PACKED_TABLES = tuple(f"{table}{packed}" for table in (".jsonl", ".csv", ".tsv", ".txt") for packed in PACKED)


def kind_of(file: DataPath | str) -> str:
    """Return the ending that decides how a file is read, in lower case: ``.tar.gz``, ``.jsonl``; empty for no data."""
    name = _name(file).lower()
    for ending in (*PACKED_TABLES, *TARS, *TABLES):
        if name.endswith(ending) and name != ending:
            return ending
    return ""


def is_picture(file: DataPath | str) -> bool:
    """Return whether a file's name ends as a picture's does."""
    return ending_of(file) in PICTURES


def is_text(file: DataPath | str) -> bool:
    """Return whether a file's name ends as a caption's beside a picture does."""
    return ending_of(file) in TEXTS


def ending_of(file: DataPath | str) -> str:
    """Return the ending of a file's name, in lower case and without its dot."""
    return Path(_name(file)).suffix.lower().removeprefix(".")


def _name(file: DataPath | str) -> str:
    return Path(file).name if isinstance(file, str) else file.name
