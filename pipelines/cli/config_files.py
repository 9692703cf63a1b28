"""Settings as users give them: a YAML or JSON file, and ``key=value`` on top."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

MOST_BYTES, MOST_VALUES = 256 * 1024, 10_000
"""Largest settings file in bytes, and most values in it: a few lines of aliases may expand beyond what memory holds."""


def read_settings(file: Path | None, assignments: Sequence[str] = ()) -> dict[str, Any]:
    """Return the settings of a file with ``key=value`` assignments laid over them; dots lead into nested settings.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds no mapping, or more than any settings are; or an assignment has no key.
    """
    settings = {} if file is None else _read(file)
    for assignment in assignments:
        key, found, value = assignment.partition("=")
        if not found or not key:
            raise ValueError(f"expected key=value, found {assignment!r}")
        _assign(settings, key.split("."), _value(assignment, value))
    return settings


def _value(assignment: str, text: str) -> Any:
    return _parsed(text, f"--set {assignment[:100]}: expected a value in YAML")


def _read(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such settings file")
    if (size := file.stat().st_size) > MOST_BYTES:
        raise ValueError(f"{file}: expected settings of at most {MOST_BYTES} bytes, found {size}")
    settings = _parsed(file.read_bytes(), f"{file}: expected YAML or JSON") or {}
    if not isinstance(settings, dict):
        raise ValueError(f"{file}: expected a mapping of settings, found {type(settings).__name__}")
    return settings


def _parsed(text: str | bytes, expected: str) -> Any:
    """Return the parsed YAML; ValueError in one line, which begins with what was expected."""
    try:
        found = yaml.safe_load(text)
        count = _values_in(found, {})
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{expected}: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise ValueError(f"{expected}, found values in values without end") from error
    if count > MOST_VALUES:
        raise ValueError(f"{expected} of at most {MOST_VALUES} values, found {count:.3g}")
    return found


def _values_in(found: Any, counted: dict[int, int]) -> int:
    """Count the values that a text stands for, each alias as often as it is written; `counted` are those known."""
    if not isinstance(found, (dict, list, set, tuple)):
        return 1
    if id(found) not in counted:
        inner = [*found.keys(), *found.values()] if isinstance(found, dict) else found
        counted[id(found)] = 1 + sum(_values_in(value, counted) for value in inner)
    return counted[id(found)]


def _assign(settings: dict[str, Any], path: list[str], value: Any) -> None:
    for part in path[:-1]:
        settings = settings.setdefault(part, {})
        if not isinstance(settings, dict):
            raise ValueError(f"{'.'.join(path)}: {part} is no group of settings")
    settings[path[-1]] = value
