"""Rows of text files: JSON lines, comma- or tab-separated values, lines, JSON; packed or not."""

from __future__ import annotations

import codecs
import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pyarrow as pa

from llmdiff.data.rejects import BadRow
from llmdiff.data.remote import DataPath, RemotePath
from llmdiff.data.sources.kinds import PACKED, PICTURES, is_picture, kind_of
from llmdiff.data.sources.limits import MAX_BYTES, check_text
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
"""Lines of a JSON lines file whose keys are its columns."""

Record = dict[str, Any] | BadRow
"""A row by column, their names in lower case; or why it is none."""


def read_records(file: DataPath) -> list[Record]:
    """Every row of a text file; lines that hold nothing are no rows. ValueError if it cannot be read."""
    return _READERS[_plain(kind_of(file))](file)


def columns_of(file: DataPath) -> list[str]:
    """The columns of a text file's rows, as far as its beginning shows them. ValueError where it cannot be read."""
    kind = _plain(kind_of(file))
    if kind == ".jsonl":
        records = [_from_json(line) for _, line in zip(range(SNIFFED), _lines(file), strict=False)]
    elif kind in (".csv", ".tsv"):
        header = next(iter(_lines(file)), b"").decode("utf-8", "replace")
        return next(csv.reader([header], delimiter="\t" if kind == ".tsv" else ","), [])
    else:
        records = read_records(file)
    return names_in(records)


def names_in(records: Iterable[Record]) -> list[str]:
    """The columns of rows, in the order in which they come up."""
    return list(dict.fromkeys(name for record in records if isinstance(record, dict) for name in record))


def _read_jsonl(file: DataPath) -> list[Record]:
    return [_from_json(line) for line in _lines(file)]


def _read_txt(file: DataPath) -> list[Record]:
    return [_from_line(line) for line in _lines(file)]


def _read_csv(file: DataPath, **dialect: Any) -> list[Record]:
    """A row that breaks the rules of quoting is refused by its line, and reading goes on with the next line."""
    content = _read(file).decode("utf-8", "surrogateescape")
    lines = [line for line in re.split(r"(?<=\n)|(?<=\r)(?!\n)", content) if line]
    header: list[str] | None = None
    records: list[Record] = []
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
                    records.append(_from_csv(header, values))
            return records
        except csv.Error as error:
            number = start + done + 1
            if header is None:
                raise ValueError(f"{file}, line {number}: expected the columns' names: {error}") from error
            found = lines[number - 1].strip()
            records.append(
                BadRow("broken_metadata", f"line {number}: expected separated values: {error}: {found!r:.80}")
            )
            start = number
    return records


def _read_tsv(file: DataPath) -> list[Record]:
    return _read_csv(file, delimiter="\t", quoting=csv.QUOTE_NONE)  # a quotation mark is one of the caption's own


def _read_json(file: DataPath) -> list[Record]:
    """A list of rows, or rows by the names of their pictures."""
    try:
        found = json.loads(text(_read(file)))
    except (BadRow, ValueError, RecursionError) as error:
        raise ValueError(f"{file}: expected JSON: {error}") from error
    if isinstance(found, list):
        return [_lowered(item) for item in found]
    values = list(found.items()) if isinstance(found, dict) else []
    if values and all(isinstance(value, (dict, str)) for _, value in values):
        names = [_picture_name(file.parent, key) for key, _ in values]
        if any(name is not None for name in names):
            return [_by_name(name or key, value) for name, (key, value) in zip(names, values, strict=True)]
    raise ValueError(f"{file}: expected a list of rows, or rows by the names of pictures, found other JSON")


def _lowered(item: Any) -> Record:
    if not isinstance(item, dict):
        return BadRow("broken_metadata", f"expected a JSON object, found {item!r:.80}")
    return {str(name).lower(): value for name, value in item.items()}


def _by_name(name: str, value: Any) -> Record:
    """A row that lies under its picture's name: a caption, or a mapping that holds one, or tags in its place."""
    if isinstance(value, str):
        return {"file_name": name, "caption": value}
    cells = {str(key).lower(): item for key, item in value.items()}
    if column(cells, CAPTION_COLUMNS) is None and isinstance(cells.get("tags"), str):
        cells["caption"] = cells.pop("tags")
    return {**cells, "file_name": name}


def _picture_name(folder: DataPath, key: str) -> str | None:
    """The name of a picture, whose ending may be left out; None where it is the name of none."""
    if is_picture(key):
        return key
    try:
        return next((f"{key}.{end}" for end in PICTURES if _is_there(folder, f"{key}.{end}")), None)
    except ConnectionError:
        raise
    except (OSError, ValueError):  # no name that a file system takes
        return None


def _is_there(folder: DataPath, name: str) -> bool:
    """Whether there is such a file; elsewhere than on a disk, whether a listing has it."""
    if isinstance(folder, RemotePath):
        file = folder.listed(name)
        return file.parent.holds(file.name)
    return (folder / name).is_file()


_READERS: dict[str, Callable[[DataPath], list[Record]]] = {
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


def json_record(data: bytes) -> dict[str, Any]:
    """A JSON object by lower-case names; BadRow where it is none."""
    check_text(data)
    try:
        record = json.loads(text(data))
    except BadRow:
        raise
    except (ValueError, RecursionError) as error:
        raise BadRow("broken_metadata", f"expected a JSON object, found {data!r:.80}: {error}") from error
    if not isinstance(record, dict):
        raise BadRow("broken_metadata", f"expected a JSON object, found {data!r:.80}")
    return {name.lower(): value for name, value in record.items()}


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
        return {name.strip().lower(): _cell(value) for name, value in zip(header, padded, strict=False)}
    except BadRow as bad:
        return bad


def _cell(value: str | None) -> str | None:
    """A cell of a file that was read with ``surrogateescape``; BadRow where its bytes are not UTF-8."""
    return None if value is None else text(value.encode("utf-8", "surrogateescape"))


def _lines(file: DataPath) -> Iterator[bytes]:
    """Those that hold something. Cut as bytes, for `str.splitlines` would also cut at U+2028 inside a caption."""
    return (line for line in re.split(rb"\r\n|\n|\r", _read(file)) if line.strip())


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
