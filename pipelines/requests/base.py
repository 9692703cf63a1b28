"""Base of all requests: frozen, typed, unknown fields refused, each field's docstring its help."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo

FILE = "request.json"
"""File in a run's folder that holds the request which the run answers."""

Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True, kw_only=True)
class CommandLine:
    """How the command line writes a field, where the field's name and type do not say so."""

    flag: str | None = None
    metavar: str | None = None
    path: bool = False
    """Whether the text is a path of this machine."""
    argument: bool = False
    """Whether it is written without a flag."""


OptionalPathText = Annotated[str | None, CommandLine(path=True)]
EncoderKind = Literal["llm", "base"]
VaeDType = Literal["float32", "bfloat16"]


class Request(BaseModel):
    """A request to a stage of the pipeline."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    def save(self, folder: Path) -> Path:
        """Write the request into a run's folder."""
        path = folder / FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")
        return path


def help_of(info: FieldInfo) -> str:
    """Return a field's docstring as one line."""
    return " ".join((info.description or "").split())


def checked(values: dict[str, Any], model: type[Model], what: str) -> Model:
    """Return the values as a model; raise ValueError in one line, which names those that are wrong."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ValueError(f"{what}: {one_line(error, model)}") from error


def one_line(error: ValidationError, model: type[BaseModel]) -> str:
    """Return what a pydantic model refused: each field, why or which there are, and what was found."""
    return "; ".join(_refusals(error, model))


def _refusals(error: ValidationError, model: type[BaseModel]) -> Iterator[str]:
    for item in error.errors(include_url=False):
        name, reason = ".".join(map(str, item["loc"])), item["msg"]
        if item["type"] == "extra_forbidden":
            reason = f"unknown; expected some of {', '.join(_known(model, item['loc'][:-1]))}"
        elif item["type"] == "value_error":  # of ours, which says what it found where it is about several fields
            reason = str(item["ctx"]["error"])
        yield f"{name}: {reason}, found {item['input']!r}" if name else reason


def _known(model: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    """Return the fields of a model, or of the one that lies deeper in it."""
    for part in path:
        inner = model.model_fields[str(part)].annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            model = inner
    return list(model.model_fields)
