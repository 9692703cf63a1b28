"""Prompts from files, as the benchmarks publish them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from llmdiff.data.rejects import BadRow
from llmdiff.data.sources.rows import column
from llmdiff.data.sources.tables.records import read_records
from llmdiff.evaluation.prompts import Prompt

TEXT_COLUMNS = ("prompt", "text", "caption")
CATEGORY_COLUMNS = ("category", "tag")
SUFFIXES = (".txt", ".csv", ".tsv", ".jsonl")
EXPECTED = f"a file of {', '.join(SUFFIXES)}, or a folder of .txt files"


class Line(NamedTuple):
    """A prompt as a file has it."""

    text: str
    category: str


def read_prompts(path: Path, seeds: Sequence[int] = (0,)) -> list[Prompt]:
    """Return every prompt of a file or folder with every seed, seeds innermost; a text that comes twice counts once.

    - ``.txt``: a prompt a line.
    - ``.csv``, ``.tsv`` (PartiPrompts) and ``.jsonl`` (GenEval, DPG-Bench): a column of `TEXT_COLUMNS`, and one of
      `CATEGORY_COLUMNS` if there is one; names in any case.
    - a folder of ``.txt`` files (T2I-CompBench, DPG-Bench): the file's name is the category, unless each file has one
      prompt. Where there are files ``*_val.txt``, those alone are read: the others are T2I-CompBench's training split.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ValueError: another format, no such column, or a row without a prompt: named with the file and the row.
    """
    if len(set(seeds)) != len(seeds) or not seeds:
        raise ValueError(f"seeds: expected different ones, at least one, found {list(seeds)}")
    categories: dict[str, str] = {}
    for line in _lines(path):
        categories.setdefault(line.text, line.category)
    if not categories:
        raise ValueError(f"{path}: expected prompts, found none")
    return [
        Prompt(text, seed, unit, category) for unit, (text, category) in enumerate(categories.items()) for seed in seeds
    ]


def _lines(path: Path) -> Iterator[Line]:
    if path.is_dir():
        yield from _folder(path)
    elif path.is_file() and path.suffix.lower() in SUFFIXES:
        yield from _file(path)
    elif path.exists():
        raise ValueError(f"{path}: expected {EXPECTED}")
    else:
        raise FileNotFoundError(f"{path}: no such file or folder; expected {EXPECTED}")


def _folder(folder: Path) -> Iterator[Line]:
    files = sorted(folder.glob("*.txt"))
    files = [file for file in files if file.stem.endswith("_val")] or files
    if not files:
        raise ValueError(f"{folder}: expected .txt files, found none")
    found = {file.stem.removesuffix("_val"): list(_file(file)) for file in files}
    one_each = all(len(lines) == 1 for lines in found.values())
    for category, lines in found.items():
        yield from (Line(line.text, "" if one_each else category) for line in lines)


def _file(file: Path) -> Iterator[Line]:
    records = read_records(file)
    names = list(dict.fromkeys(name for record in records if isinstance(record, dict) for name in record))
    texts, categories = column(names, TEXT_COLUMNS), column(names, CATEGORY_COLUMNS)
    if names and texts is None:
        raise ValueError(f"{file}: expected a column named {' or '.join(TEXT_COLUMNS)}, found {', '.join(names)}")
    for row, record in enumerate(records):
        if isinstance(record, BadRow):
            raise ValueError(f"{file}: row {row} (from 0): {record.detail}")
        where = f"{file}: row {row} (from 0)"
        yield Line(_text(record.get(str(texts)), where), _category(record, categories, where))


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{where}: expected a prompt, found {value!r:.80}")
    return value.strip()


def _category(record: dict[str, Any], name: str | None, where: str) -> str:
    value = record.get(name) if name is not None else None
    if isinstance(value, BadRow):
        raise ValueError(f"{where}: {value.detail}")
    return "" if value is None else str(value).strip()
