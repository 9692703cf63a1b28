"""Settings as users give them: a YAML or JSON file, ``key=value`` on top, and errors in one line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

Model = TypeVar("Model", bound=BaseModel)


def read_settings(file: Path | None, assignments: Sequence[str] = ()) -> dict[str, Any]:
    """The settings of a file with ``key=value`` assignments laid over them; dots lead into nested settings.

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


def checked(settings: dict[str, Any], model: type[Model], what: str) -> Model:
    """The settings as a model; ValueError in one line, which names those that are wrong, where it refuses them."""
    try:
        return model.model_validate(settings)
    except ValidationError as error:
        raise ValueError(f"{what}: {one_line(error, model)}") from error


def one_line(error: ValidationError, model: type[BaseModel]) -> str:
    """What a pydantic model refused: each field, why or which there are, and what was found."""
    lines = []
    for item in error.errors(include_url=False):
        unknown = item["type"] == "extra_forbidden"
        reason = f"unknown; expected some of {', '.join(_known(model, item['loc'][:-1]))}" if unknown else item["msg"]
        lines.append(f"{'.'.join(map(str, item['loc'])) or 'settings'}: {reason}, found {item['input']!r}")
    return "; ".join(lines)


def _known(model: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    """The settings of a model, or of the one that lies deeper in it."""
    for part in path:
        inner = model.model_fields[str(part)].annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            model = inner
    return list(model.model_fields)


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
