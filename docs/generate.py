"""Write the reference pages that follow from the code: commands, settings of encoder and training, deployments.

``python docs/generate.py`` rewrites them below ``docs/reference``, and ``make docs`` runs it. A test compares the pages
with the code, so a changed option or setting without a changed page is found.
"""

from __future__ import annotations

import enum
import inspect
import json
import typing
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import UnionType
from typing import Any, Literal

import yaml
from prefect.utilities.callables import parameter_schema
from prefect.utilities.importtools import import_object
from pydantic import TypeAdapter

from llmdiff.encoder import EncoderConfig
from llmdiff.training.config import TrainSettings
from pipelines.cli.commands import program

DOCS = Path(__file__).resolve().parent
PREFECT_FILE = DOCS.parent / "infra" / "prefect.yaml"
MADE = "<!-- Made by docs/generate.py: change the code, then run `make docs`. -->"
SETTINGS_PAGES = {"EncoderConfig": "encoder-settings.md", "TrainSettings": "training-settings.md"}
"""Definitions of a form that have a page of their own."""


def main() -> None:
    """Write every page, and print its path."""
    for path, text in pages().items():
        path.write_text(text)
        print(path)


def pages() -> dict[Path, str]:
    """Return the text of every generated page by its path."""
    makers = {
        "commands.md": commands_page,
        "encoder-settings.md": encoder_page,
        "training-settings.md": training_page,
        "deployments.md": deployments_page,
    }
    return {DOCS / "reference" / name: make().rstrip() + "\n" for name, make in makers.items()}


def commands_page() -> str:
    """Return the page of the command line: each command with its arguments, options, defaults and example."""
    blocks = [
        "# Command line",
        MADE,
        "Every command prints this with `--help`. `llmdiff --debug COMMAND` shows tracebacks and all logs; an error is "
        "otherwise one line, and the exit code is 1.",
    ]
    for name, command in walk(program(), "llmdiff"):
        blocks += [f"## {name}", *command_blocks(name, command)]
    return "\n\n".join(blocks)


def walk(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Yield every command that does something, with its full name."""
    for part, inner in getattr(command, "commands", {}).items():
        yield from walk(inner, f"{name} {part}")
    if not hasattr(command, "commands"):
        yield name, command


def command_blocks(name: str, command: Any) -> list[str]:
    """Return what a command does, its parameters as a table, and its examples."""
    types = inspect.signature(command.callback, eval_str=True).parameters
    rows = [parameter_row(one, types[one.name].annotation) for one in command.params if one.name != "help"]
    blocks = ["\n\n".join(inspect.cleandoc(command.help).split("\n\n"))]
    if rows:
        blocks.append(table(("parameter", "value", "default", "meaning"), rows))
    examples = [line for line in (command.epilog or "").split("\n\n") if line.startswith("Example: ")]
    commands = [line.removeprefix("Example: ").strip() for line in examples]
    return [*blocks, "```bash\n" + "\n".join(commands) + "\n```"] if commands else blocks


def parameter_row(parameter: Any, kind: Any) -> tuple[str, ...]:
    """Return the row of an argument or an option."""
    option = parameter.opts[0].startswith("-")
    names = [*parameter.opts, *parameter.secondary_opts] if option else [f"{parameter.metavar or parameter.name}"]
    name = ", ".join(f"`{one if option else one.upper()}`" for one in names)
    repeated = getattr(parameter, "multiple", False)
    value = type_words(kind) + (", several" if repeated else "")
    default = "required" if parameter.required else code(parameter.default)
    return name, value, default, parameter.help or ""


def type_words(kind: Any) -> str:
    """Return a parameter's type in a word, or its choices."""
    arguments = typing.get_args(kind)
    origin = typing.get_origin(kind)
    if origin is typing.Annotated:
        return type_words(arguments[0])
    if origin in (UnionType, typing.Union):
        return " or ".join(type_words(one) for one in arguments if one is not type(None))
    if origin is list:
        return type_words(arguments[0])
    if origin is Literal:
        return ", ".join(f"`{one}`" for one in arguments)
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return ", ".join(f"`{one.value}`" for one in kind)
    return {str: "text", Path: "path", int: "integer", float: "number", bool: "flag"}[kind]


def encoder_page() -> str:
    """Return the page of the encoder's settings."""
    intro = (
        "Give them to `llmdiff encode` with `--set KEY=VALUE`, or in a YAML or JSON file with `--config`; "
        "to `llmdiff retrain` with `--encoder-set` and `--encoder-config`. All but `token_budget` go into the "
        "encoder's [fingerprint](../glossary.md#words-of-the-store): another value makes encodings of its own beside "
        "those that the store holds, and nothing that is there is encoded again."
    )
    schema = TypeAdapter(EncoderConfig).json_schema()
    return "\n\n".join(["# Encoder settings", MADE, intro, schema_table(schema, {}), COSTS])


COSTS = """\
What the word paths cost was measured on a CPU: [Costs of encoding](../explanation/method.md#what-encoding-costs)."""


def training_page() -> str:
    """Return the page of the training settings, nested groups included."""
    schema = TrainSettings.model_json_schema()
    intro = (
        "Give them to `llmdiff train` and `llmdiff retrain` with `--set KEY=VALUE`, or in a YAML or JSON file with "
        "`--config`. A dot leads into a group: `--set adapter.new_weight=1.0`. An unknown key, a value out of bounds "
        "or of another type is refused before anything starts. The resolved settings are saved as `config.json` in "
        "the run's folder."
    )
    blocks = ["# Training settings", MADE, intro, schema_table(schema, schema["$defs"])]
    for name, definition in schema["$defs"].items():
        blocks += [f"## {name}", inspect.cleandoc(definition["description"]), schema_table(definition, schema["$defs"])]
    return "\n\n".join(blocks)


def deployments_page() -> str:
    """Return the page of the deployments and their parameters."""
    intro = (
        "`make serve` registers the deployments of `infra/prefect.yaml`. Start one from Prefect's page, whose forms "
        "are drawn from the same types, or with `prefect deployment run NAME --param KEY=VALUE`; a value that is no "
        "plain text is JSON. What `infra/prefect.yaml` says under `parameters` holds where you say nothing."
    )
    blocks, definitions = ["# Deployments", MADE, intro], dict[str, Any]()
    for deployment in yaml.safe_load(PREFECT_FILE.read_text())["deployments"]:
        flow = import_object(deployment["entrypoint"])
        schema = parameter_schema(flow.fn).model_dump()
        definitions |= schema["definitions"]
        blocks += [
            f"## {flow.name}/{deployment['name']}",
            deployment["description"],
            schema_table(schema, schema["definitions"], deployment.get("parameters", {})),
        ]
    for name, definition in sorted(definitions.items()):
        if name not in SETTINGS_PAGES and "properties" in definition and name != "AdapterSettings":
            blocks += [f"## {name}", definition.get("description", ""), schema_table(definition, definitions)]
    return "\n\n".join(block for block in blocks if block)


def schema_table(schema: dict[str, Any], definitions: dict[str, Any], given: dict[str, Any] | None = None) -> str:
    """Return the properties of a JSON schema as a table; `given` values stand in place of defaults."""
    required = set(schema.get("required", []))
    rows = []
    for name, one in schema["properties"].items():
        default = "required" if name in required else code(one.get("default"))
        if given and name in given:
            default = f"{code(given[name])}, from `infra/prefect.yaml`"
        if "$ref" in one or any("$ref" in other for other in one.get("allOf", [])):
            default = "its own" if name not in required else "required"
        rows.append((f"`{name}`", schema_words(one, definitions), default, one.get("description", "")))
    return table(("parameter", "value", "default", "meaning"), rows)


def schema_words(schema: dict[str, Any], definitions: dict[str, Any]) -> str:
    """Return the type of a JSON schema in words, with its choices and bounds."""
    if "$ref" in schema:
        return definition_link(schema["$ref"].rpartition("/")[2], definitions)
    if "anyOf" in schema:
        return " or ".join(
            dict.fromkeys(schema_words(one, definitions) for one in schema["anyOf"] if one.get("type") != "null")
        )
    if "allOf" in schema:
        return schema_words(schema["allOf"][0], definitions)
    if "enum" in schema:
        return ", ".join(f"`{one}`" for one in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {schema_words(schema.get('items', {}), definitions)}"
    names = {"string": "text", "boolean": "true or false", "object": "mapping"}
    return names.get(schema.get("type", "any"), schema.get("type", "any")) + bounds(schema)


def bounds(schema: dict[str, Any]) -> str:
    """Return the bounds of a number."""
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    return "".join(f" {sign} {schema[key]:g}" for key, sign in signs.items() if key in schema)


def definition_link(name: str, definitions: dict[str, Any]) -> str:
    """Return a link to where a definition is described; an enumeration is its choices."""
    if "properties" not in definitions[name]:
        return schema_words(definitions[name], definitions)
    if name == "AdapterSettings":
        return f"[{name}](training-settings.md#adaptersettings)"
    return f"[{name}]({SETTINGS_PAGES[name]})" if name in SETTINGS_PAGES else f"[{name}](#{name.lower()})"


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """Return a Markdown table."""
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(cell(text) for text in line) + " |" for line in lines)


def cell(text: str) -> str:
    """Return text that can stand in a cell: one line, with bars escaped and Sphinx's double backticks as Markdown's."""
    parts = " ".join(text.replace("``", "`").replace("|", "\\|").split()).split("`")
    return "`".join(part if i % 2 else part.replace("<", "&lt;") for i, part in enumerate(parts))


def code(value: Any) -> str:
    """Return a default as code; nothing where there is none."""
    if value is None or value in ("", [], ()):
        return ""
    if isinstance(value, enum.Enum):
        value = value.value
    return f"`{value}`" if isinstance(value, str | Path) else f"`{json.dumps(value)}`"


if __name__ == "__main__":
    main()
