"""Options of commands: made from the fields of requests, and those that several commands share."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
import typer.core
from annotated_types import Ge, Le
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from pipelines.requests.base import CommandLine, help_of

Config = Annotated[Path | None, typer.Option(help="YAML or JSON file of settings.")]
Set = Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE", help="One setting, over those of --config.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


def options_of(
    *models: type[BaseModel],
    without: Collection[str] = (),
    optional: Collection[str] = (),
    written: Mapping[str, CommandLine] | None = None,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that gives a command an option for each field of some models.

    The command takes their values as a dictionary, its first argument; its other arguments are options of its own.

    Args:
        models: whose fields become options, in their order. Of several fields of one name, the first counts.
        without: fields that the command line writes in another way.
        optional: fields that are None where they are not given, so that their default is left to the stage.
        written: how fields are written that don't say so themselves.
    """
    fields: dict[str, FieldInfo] = {}
    for model in models:
        for name, info in model.model_fields.items():
            if name not in without:
                fields.setdefault(name, info)

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        def run(**values: Any) -> None:
            given = {name: _plain(values.pop(name)) for name in fields}
            command(given, **values)

        own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]
        options = [option(name, info, (written or {}).get(name), name in optional) for name, info in fields.items()]
        own = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]
        run.__signature__ = inspect.Signature([*options, *own])  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in [*options, *own]}
        run.__name__, run.__doc__ = command.__name__, command.__doc__
        return run

    return decorate


class OneDataSet(typer.core.TyperCommand):
    """A command that takes one data set: of several `--data` the last one would count, without a word."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments, and refuse a second data set; see `typer.core.TyperCommand`."""
        _, _, given = self.make_parser(ctx).parse_args(args=list(args))
        if (times := [parameter.name for parameter in given].count("data")) > 1:
            ctx.fail(f"--data: expected one file, folder or address, found {times}: run the command once for each")
        return super().parse_args(ctx, args)


def option(name: str, info: FieldInfo, written: CommandLine | None = None, optional: bool = False) -> inspect.Parameter:
    """Return a field as a parameter that Typer makes an option of: name, type, bounds, default and help."""
    how = written or next((each for each in info.metadata if isinstance(each, CommandLine)), CommandLine())
    kind: Any = _path_type(info.annotation) if how.path else info.annotation
    text = help_of(info)
    default = inspect.Parameter.empty if info.is_required() else info.get_default(call_default_factory=True)
    if optional:
        text += "" if info.is_required() else f" Default: {default}."
        kind, default = kind | None, None
    about: dict[str, Any] = {"help": text, "metavar": how.metavar, **_bounds(info)}
    flags = () if how.flag is None else (how.flag,)
    made = typer.Argument(**about) if how.argument else typer.Option(*flags, **about)
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, made])


def _bounds(info: FieldInfo) -> dict[str, Any]:
    """Return the least and the greatest value of a field, where it has them."""
    found: dict[str, Any] = {}
    for bound in info.metadata:
        if isinstance(bound, Ge):
            found["min"] = bound.ge
        elif isinstance(bound, Le):
            found["max"] = bound.le
    return found


def _path_type(annotation: Any) -> Any:
    """Return the type of a path, optional where the annotated text is."""
    return Path | None if type(None) in get_args(annotation) else Path


def _plain(value: Any) -> Any:
    """Return a value as a request takes it."""
    return str(value) if isinstance(value, Path) else value
