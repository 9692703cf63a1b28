"""Rows of text files: JSON lines, comma- or tab-separated values, lines, JSON; packed or not."""

from __future__ import annotations

import codecs
import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import pyarrow as pa

from llmdiff.data.rejects import BadRow
from llmdiff.data.remote import DataPath, RemotePath
from llmdiff.data.sources.json_cells import cells_of, json_record, loads
from llmdiff.data.sources.kinds import PACKED, PICTURES, is_picture, kind_of
from llmdiff.data.sources.limits import MAX_BYTES
from llmdiff.data.sources.opening import arrow_source, size_of
from llmdiff.data.sources.rows import CAPTION_COLUMNS, column, text

MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""What a file begins with that is not UTF-8 and says so; the longer ones first."""
MAX_RATIO = 100
"""How many times its packed size a text may have, where it has more than `MAX_BYTES`; real ones have some twenty."""
UNPACKED_AT_ONCE = 4 * 1024**2
"""Bytes."""
SNIFFED = 64
"""Rows by which it is told what a file's columns hold."""
OTHER_SEPARATORS = (";", "\t", "|")
"""Of a file that is called comma-separated and has no comma in its first line."""

Record = dict[str, Any] | BadRow
"""A row by column, their names in lower case; or why it is none."""


def read_records(file: DataPath) -> list[Record]:
    """Every row of a text file; lines that hold nothing are no rows. ValueError if it cannot be read."""
    return list(_READERS[_plain(kind_of(file))](file))


def first_records(file: DataPath) -> list[Record]:
    """The rows of a text file's first lines. ValueError where it cannot be read."""
    return list(islice(_READERS[_plain(kind_of(file))](file), SNIFFED))


def names_in(records: Iterable[Record]) -> list[str]:
    """The columns of rows, in the order in which they come up."""
    return list(dict.fromkeys(name for record in records if isinstance(record, dict) for name in record))


def _read_jsonl(file: DataPath) -> Iterator[Record]:
    return map(_from_json, _lines(_read(file)))


def _read_txt(file: DataPath) -> Iterator[Record]:
    return map(_from_line, _lines(_read(file)))


def _read_csv(file: DataPath) -> Iterator[Record]:
    """Separated by what the first line shows: a comma, or what other programs take in its place."""
    lines = _lines_to_split(file)
    first = next((line for line in lines if line.strip()), "")
    separator = "," if "," in first else next((other for other in OTHER_SEPARATORS if other in first), ",")
    return _separated(file, lines, delimiter=separator)


def _read_tsv(file: DataPath) -> Iterator[Record]:
    return _separated(
        file, _lines_to_split(file), delimiter="\t", quoting=csv.QUOTE_NONE
    )  # a mark is the caption's own


def _lines_to_split(file: DataPath) -> list[str]:
    content = _read(file).decode("utf-8", "surrogateescape")
    return [line for line in re.split(r"(?<=\n)|(?<=\r)(?!\n)", content) if line]


def _separated(file: DataPath, lines: list[str], **dialect: Any) -> Iterator[Record]:
    """A row that breaks the rules of quoting is refused by its line, and reading goes on with the next line."""
    header: list[str] | None = None
    start = 0
    while start < len(lines):
        reader = csv.reader(map(lines.__getitem__, range(start, len(lines))), strict=True, **dialect)
        done = 0  # lines of whole rows
        try:
            for values in reader:
                done = reader.line_num
                if header is None:
                    header = values or None
                elif values:
                    yield _from_csv(header, values)
            return
        except csv.Error as error:
            number = start + done + 1
            if header is None:
                raise ValueError(f"{file}, line {number}: expected the columns' names: {error}") from error
            found = lines[number - 1].strip()
            yield BadRow("broken_metadata", f"line {number}: expected separated values: {error}: {found!r:.80}")
            start = number


def _read_json(file: DataPath) -> Iterator[Record]:
    """A list of rows, rows by the names of their pictures, or a row a line, as many name such a file."""
    data = _read(file)
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
    yield from (_by_name(name or key, value) for name, (key, value) in zip(names, by_name.items(), strict=True))


def _may_be_captions(value: Any) -> bool:
    return isinstance(value, (dict, str)) or (isinstance(value, list) and any(isinstance(each, str) for each in value))


def _lowered(item: Any) -> Record:
    if not isinstance(item, dict):
        return BadRow("broken_metadata", f"expected a JSON object, found {item!r:.80}")
    return cells_of(item.items())


def _by_name(name: str, value: Any) -> Record:
    """A row that lies under its picture's name: captions, or a mapping that holds one, or tags in its place."""
    if not isinstance(value, dict):
        return {"file_name": name, "caption": value}
    cells = cells_of(value.items())
    if column(cells, CAPTION_COLUMNS) is None and isinstance(cells.get("tags"), str):
        cells["caption"] = cells.pop("tags")
    return {**cells, "file_name": name}


def _picture_name(folder: DataPath, key: str) -> str | None:
    """The name of a picture, whose ending may be left out; None where it is the name of none."""
    if is_picture(key):
        return key
    try:
        return next((f"{key}.{end}" for end in PICTURES if is_there(folder, f"{key}.{end}")), None)
    except ConnectionError:
        raise
    except (OSError, ValueError):  # no name that a file system takes
        return None


def is_there(folder: DataPath, name: str) -> bool:
    """Return whether there is such a file; elsewhere than on a disk, whether a listing has it."""
    if isinstance(folder, RemotePath):
        file = folder.listed(name)
        return file.parent.holds(file.name)
    return (folder / name).is_file()


_READERS: dict[str, Callable[[DataPath], Iterator[Record]]] = {
    ".jsonl": _read_jsonl,
    ".txt": _read_txt,
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".json": _read_json,
}


def _plain(kind: str) -> str:
    """A kind without its packing: ``.jsonl`` for ``.jsonl.gz``."""
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


def _from_csv(header: list[str], values: list[str]) -> Record:
    if any(values[len(header) :]):
        wrong = f"expected {len(header)} values, found {len(values)}; is a separator not in quotes?"
        return BadRow("broken_metadata", wrong)
    padded = [*values, *[None] * (len(header) - len(values))]
    try:
        return cells_of((name, _cell(value)) for name, value in zip(header, padded, strict=False))
    except BadRow as bad:
        return bad


def _cell(value: str | None) -> str | None:
    """A cell of a file that was read with ``surrogateescape``; BadRow where its bytes are not UTF-8."""
    return None if value is None else text(value.encode("utf-8", "surrogateescape"))


def _lines(data: bytes) -> Iterator[bytes]:
    """Those that hold something. Cut as bytes, for `str.splitlines` would also cut at U+2028 inside a caption."""
    return (line for line in re.split(rb"\r\n|\n|\r", data) if line.strip())


def _read(file: DataPath) -> bytes:
    """A file's text as UTF-8, unpacked, whatever its mark says that it is in."""
    try:
        if (packed := file.suffix.lower()) in PACKED:
            how = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}[packed]
            with pa.input_stream(arrow_source(file), compression=how) as data:
                return as_utf8(_unpacked(data, file), file)
        return as_utf8(file.read_bytes(), file)
    except ConnectionError:
        raise
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"{file}: {getattr(error, 'strerror', None) or error}") from error


def _unpacked(data: pa.NativeFile, file: DataPath) -> bytes:
    """What a packed text holds; ValueError where that is so much more than it is itself that it can be no text."""
    packed, found = size_of(file), bytearray()
    most = max(MAX_BYTES, MAX_RATIO * packed)
    while part := data.read(UNPACKED_AT_ONCE):
        found += part
        if len(found) > most:
            raise ValueError(f"{file}: expected at most {most} bytes of text in {packed} bytes, found more")
    return bytes(found)


def as_utf8(data: bytes, file: object) -> bytes:
    """Text as UTF-8 without its mark; ValueError where it is UTF-16 without one, or not what its mark says."""
    for mark, encoding in MARKS.items():
        if data.startswith(mark):
            try:
                return data.decode(encoding).encode()
            except UnicodeError as error:
                raise ValueError(f"{file}: expected {encoding.upper()}, as its mark says, found {error}") from error
    if data[1:2] == b"\0" or data[:1] == b"\0":
        raise ValueError(f"{file}: expected UTF-8 text, found NUL bytes: UTF-16 without its mark? Save it as UTF-8")
    return data.removeprefix(codecs.BOM_UTF8)


def read_text(file: DataPath) -> str:
    """A text file's content, its line ends as they are; ValueError naming the line where it is not UTF-8."""
    data = as_utf8(file.read_bytes(), file)
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        found = f"byte 0x{error.object[error.start]:02x}"
        raise ValueError(f"{file}: line {line}: expected UTF-8 text, found {found}") from error
