"""Rows of text files: JSON lines, comma- or tab-separated values, lines, JSON; packed or not."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import islice
from typing import Any

from llmdiff.data.rejects import BadRow
from llmdiff.data.remote import DataPath
from llmdiff.data.sources.file_names import is_there
from llmdiff.data.sources.json_cells import Record, cells_of, json_record, loads
from llmdiff.data.sources.kinds import PACKED, PICTURES, is_picture, kind_of
from llmdiff.data.sources.rows import CAPTION_COLUMNS, column, text
from llmdiff.data.sources.tables.separated import read_csv, read_tsv
from llmdiff.data.sources.text_bytes import utf8_bytes

SNIFFED = 64
"""Rows that are read to find out what a file's columns hold."""


def read_records(file: DataPath) -> list[Record]:
    """Return every row of a text file, empty lines left out; ValueError if it can't be read."""
    return list(_READERS[_plain(kind_of(file))](file))


def first_records(file: DataPath) -> list[Record]:
    """Return the first rows of a text file; ValueError if it can't be read."""
    return list(islice(_READERS[_plain(kind_of(file))](file), SNIFFED))


def names_in(records: Iterable[Record]) -> list[str]:
    """Return the columns of rows, in the order in which they first occur."""
    return list(dict.fromkeys(name for record in records if isinstance(record, dict) for name in record))


def _read_jsonl(file: DataPath) -> Iterator[Record]:
    """Return a row for each line; or the rows of a list, for some give that the ending ``.jsonl`` too."""
    data = utf8_bytes(file)
    if data.lstrip().startswith(b"["):  # no row begins so
        with suppress(ValueError, RecursionError):
            return map(_lowered, loads(text(data)))
    return map(_from_json, _lines(data))


def _read_txt(file: DataPath) -> Iterator[Record]:
    return map(_from_line, _lines(utf8_bytes(file)))


def _read_json(file: DataPath) -> Iterator[Record]:
    """Yield the rows of a list, of a mapping from pictures' names, or of lines, which many also store as ``.json``."""
    data = utf8_bytes(file)
    try:
        found = loads(text(data))
    except (BadRow, ValueError, RecursionError) as error:
        if (
            isinstance(error, json.JSONDecodeError)
            and error.msg == "Extra data"
            and isinstance(_from_json(next(_lines(data), b"")), dict)
        ):
            yield from map(_from_json, _lines(data))
            return
        raise ValueError(f"{file}: expected JSON: {error}") from error
    if isinstance(found, list):
        yield from map(_lowered, found)
        return
    by_name = found if isinstance(found, dict) and any(map(_may_be_captions, found.values())) else {}
    names = [_picture_name(file.parent, key) for key in by_name]
    if not any(names):
        raise ValueError(f"{file}: expected a list of rows, or rows by the names of pictures, found other JSON")
    yield from (_by_name(key, name or key, value) for name, (key, value) in zip(names, by_name.items(), strict=True))


def _may_be_captions(value: Any) -> bool:
    return isinstance(value, (dict, str)) or (isinstance(value, list) and any(isinstance(each, str) for each in value))


def _lowered(item: Any) -> Record:
    if not isinstance(item, dict):
        return BadRow("broken_metadata", f"expected a JSON object, found {item!r:.80}")
    return cells_of(item.items())


def _by_name(key: str, name: str, value: Any) -> Record:
    """Return the row of a picture's name: its value is the caption, or a mapping that holds a caption, or tags instead.

    A key without an ending may as well be the row's number, so the row's own file name comes before it.
    """
    if not isinstance(value, dict):
        return {"file_name": name, "caption": value}
    cells = cells_of(value.items())
    if column(cells, CAPTION_COLUMNS) is None and isinstance(cells.get("tags"), str):
        cells["caption"] = cells.pop("tags")
    own = None if is_picture(key) else cells.get("file_name")
    return {**cells, "file_name": own or name}


def _picture_name(folder: DataPath, key: str) -> str | None:
    """Return the name of the picture that a key names, with or without its ending; None where it names none."""
    if is_picture(key):
        return key
    try:
        return next((f"{key}.{end}" for end in PICTURES if is_there(folder, f"{key}.{end}")), None)
    except ConnectionError:
        raise
    except (OSError, ValueError):  # not a valid file name
        return None


_READERS: dict[str, Callable[[DataPath], Iterator[Record]]] = {
    ".jsonl": _read_jsonl,
    ".txt": _read_txt,
    ".csv": read_csv,
    ".tsv": read_tsv,
    ".json": _read_json,
}


def _plain(kind: str) -> str:
    """Return a kind without its packing: ``.jsonl`` for ``.jsonl.gz``."""
    return next((kind.removesuffix(end) for end in PACKED if kind.endswith(end)), kind)


def _from_json(line: bytes) -> Record:
    try:
        return json_record(line)
    except BadRow as bad:
        return bad


def _from_line(line: bytes) -> Record:
    try:
        return {"caption": text(line).strip()}
    except BadRow as bad:
        return bad


def _lines(data: bytes) -> Iterator[bytes]:
    """Yield the lines that are not empty; cut bytes, for `str.splitlines` also cuts at U+2028 inside a caption."""
    return (line for line in re.split(rb"\r\n|\n|\r", data) if line.strip())
