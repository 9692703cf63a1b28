"""Settings as users give them: a YAML or JSON file, and ``key=value`` on top."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml


def read_settings(file: Path | None, assignments: Sequence[str] = ()) -> dict[str, Any]:
    """Return the settings of a file with ``key=value`` assignments laid over them; dots lead into nested settings.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds no mapping, or an assignment has no key.
    """
    settings = {} if file is None else _read(file)
    for assignment in assignments:
        key, found, value = assignment.partition("=")
        if not found or not key:
            raise ValueError(f"expected key=value, found {assignment!r}")
        _assign(settings, key.split("."), _value(assignment, value))
    return settings


def _value(assignment: str, text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"--set {assignment}: expected a value in YAML: {' '.join(str(error).split())}") from error


def _read(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such settings file")
    try:
        settings = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{file}: expected YAML or JSON: {' '.join(str(error).split())}") from error
    if not isinstance(settings, dict):
        raise ValueError(f"{file}: expected a mapping of settings, found {type(settings).__name__}")
    return settings


def _assign(settings: dict[str, Any], path: list[str], value: Any) -> None:
    for part in path[:-1]:
        settings = settings.setdefault(part, {})
        if not isinstance(settings, dict):
            raise ValueError(f"{'.'.join(path)}: {part} is no group of settings")
    settings[path[-1]] = value
