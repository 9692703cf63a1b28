"""Comma- and tab-separated values."""

from __future__ import annotations

import ast
import csv
import json
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from llmdiff.data.rejects import BadRow
from llmdiff.data.remote import DataPath
from llmdiff.data.sources.json_cells import Record, cells_of
from llmdiff.data.sources.rows import text
from llmdiff.data.sources.text_bytes import utf8_bytes

OTHER_SEPARATORS = (";", "\t", "|")
"""Separators of a ``.csv`` file that has no comma in its first line."""
WITHOUT_COMMA = re.compile(r"""['"]\s+['"]""")
"""Pattern between the texts of a list that NumPy wrote: Python would read them as one text."""


def read_csv(file: DataPath) -> Iterator[Record]:
    """Yield the rows of a file that is separated by commas, or by what its first line has in their place."""
    lines = _lines_to_split(file)
    first = next((line for line in lines if line.strip()), "")
    separator = "," if "," in first else next((other for other in OTHER_SEPARATORS if other in first), ",")
    return _separated(file, lines, delimiter=separator)


def read_tsv(file: DataPath) -> Iterator[Record]:
    """Yield the rows of a file separated by tabs; quotation marks are the captions' own, unless `_is_quoted`."""
    lines = _lines_to_split(file)
    return _separated(file, lines, delimiter="\t", quoting=csv.QUOTE_MINIMAL if _is_quoted(lines) else csv.QUOTE_NONE)


def _is_quoted(lines: list[str]) -> bool:
    """Return whether a program such as pandas has put values into quotation marks.

    It has if all rows are as long as the first when read with such marks, and read without them some are not, or a
    column's name is in marks, or a value has doubled marks.
    """

    def rows(quoting: Any) -> Iterator[list[str]]:
        return (row for row in csv.reader(lines, delimiter="\t", strict=True, quoting=quoting) if row)

    if not any(line.startswith('"') or '\t"' in line for line in lines):
        return False
    try:
        quoted, plain = (Counter(map(len, rows(how))) for how in (csv.QUOTE_MINIMAL, csv.QUOTE_NONE))
        if len(quoted) > 1 or len(plain) > 1:
            return len(quoted) == 1
        both = enumerate(zip(rows(csv.QUOTE_MINIMAL), rows(csv.QUOTE_NONE), strict=True)) if quoted == plain else ()
        return any(row != written and (number == 0 or _is_doubled(row, written)) for number, (row, written) in both)
    except csv.Error:
        return False


def _is_doubled(row: list[str], written: list[str]) -> bool:
    """Return whether a value of a row holds quotation marks, which are doubled as written."""
    return any('"' in value and value != as_written for value, as_written in zip(row, written, strict=True))


def list_in(value: Any) -> Any:
    """Return the list of texts that a cell holds as JSON or Python writes it; return any other cell as it is."""
    if not (isinstance(value, str) and re.fullmatch(r"\s*\[.*\]\s*", value, re.DOTALL)):
        return value
    for read in (json.loads, ast.literal_eval):
        with suppress(ValueError, SyntaxError, RecursionError, MemoryError):
            found = read(value.strip())
            is_list = isinstance(found, list) and all(isinstance(each, str) for each in found)
            return found if is_list and not WITHOUT_COMMA.search(value) else value
    return value


def _lines_to_split(file: DataPath) -> list[str]:
    content = utf8_bytes(file).decode("utf-8", "surrogateescape")
    return [line for line in re.split(r"(?<=\n)|(?<=\r)(?!\n)", content) if line]


def _separated(file: DataPath, lines: list[str], **dialect: Any) -> Iterator[Record]:
    """Yield rows; a row that breaks the rules of quoting becomes a BadRow, and reading goes on with the next line."""
    header: list[str] | None = None
    start = 0
    while start < len(lines):
        reader = csv.reader(map(lines.__getitem__, range(start, len(lines))), strict=True, **dialect)
        done = 0  # lines that complete rows have used
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
    """Return a cell of a file that was read with ``surrogateescape``; BadRow where its bytes are not UTF-8."""
    return None if value is None else text(value.encode("utf-8", "surrogateescape"))
