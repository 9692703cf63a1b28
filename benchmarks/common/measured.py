"""Rows that benchmarks measured, from their CSV files."""

from __future__ import annotations

import csv
from pathlib import Path

RESULTS = Path(__file__).parents[1] / "results"


def rows_of(file: str) -> list[dict[str, str]]:
    """Return the rows of a file."""
    with (RESULTS / file).open(newline="") as opened:
        return list(csv.DictReader(opened))


def measured(file: str, column: str, **keys: str) -> float:
    """Return a column of the newest row that has these values."""
    found = [row for row in rows_of(file) if all(row[name] == value for name, value in keys.items())]
    if not found:
        raise ValueError(f"{RESULTS / file}: expected a row with {keys}, found none")
    return float(found[-1][column])


def growth(name: str, column: str = "value", **keys: str) -> tuple[float, float]:
    """Return a figure of ``index.csv`` at no rows, on a disk, and how it grows with each row; never less than 0.

    It follows from the largest index and from the largest of half its rows or fewer.
    """
    found = {int(row["rows"]): float(row[column]) for row in index_rows(name, **keys) if row[column]}
    many = max(found)
    few = max(rows for rows in found if rows <= many / 2)
    slope = max(0.0, (found[many] - found[few]) / (many - few))
    return max(0.0, found[many] - slope * many), slope


def index_rows(name: str, **keys: str) -> list[dict[str, str]]:
    """Return the rows of a figure of ``index.csv``, on a disk, the newest last."""
    keys = {"where": "disk", "name": name, **keys}
    found = [row for row in rows_of("index.csv") if all(row[key] == value for key, value in keys.items())]
    if not found:
        raise ValueError(f"{RESULTS / 'index.csv'}: expected a row with {keys}, found none")
    return found
