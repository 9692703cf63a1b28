"""What commands print: mappings, tables, JSON documents."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any


def print_json(document: dict[str, Any]) -> None:
    """The whole of a command's standard output."""
    print(json.dumps(document, indent=2))


def print_values(values: dict[str, Any], indent: str = "") -> None:
    """A mapping as ``name: value`` lines."""
    for name, value in values.items():
        if isinstance(value, dict) and value:
            print(f"{indent}{name}:")
            print_values(value, indent + "  ")
        else:
            print(f"{indent}{name}: {'none' if value in ({}, []) else value}")


def print_table(columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> None:
    """Names to the left, numbers to the right."""
    lines = [list(columns), *([str(row[column]) for column in columns] for row in rows)]
    first, *widths = (max(map(len, column)) for column in zip(*lines, strict=True))
    for name, *numbers in lines:
        cells = (number.rjust(width) for number, width in zip(numbers, widths, strict=True))
        print("  ".join([name.ljust(first), *cells]))


def finite(value: Any) -> Any:
    """The same structure with None for what is no number, since JSON has none."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
