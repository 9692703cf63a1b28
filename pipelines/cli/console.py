"""What commands print: mappings, tables, JSON documents."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any


def print_json(document: dict[str, Any]) -> None:
    """Print the whole of a command's standard output."""
    print(json.dumps(document, indent=2))


def print_values(values: dict[str, Any], indent: str = "") -> None:
    """Print a mapping as ``name: value`` lines."""
    for name, value in values.items():
        if isinstance(value, dict) and value:
            print(f"{indent}{name}:")
            print_values(value, indent + "  ")
        else:
            print(f"{indent}{name}: {'none' if value in ({}, []) else value}")


def print_table(columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> None:
    """Print a table: names to the left, numbers to the right."""
    lines = [list(columns), *([str(row[column]) for column in columns] for row in rows)]
    first, *widths = (max(map(len, column)) for column in zip(*lines, strict=True))
    for name, *numbers in lines:
        cells = (number.rjust(width) for number, width in zip(numbers, widths, strict=True))
        print("  ".join([name.ljust(first), *cells]))
