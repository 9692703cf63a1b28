"""Every command, option, setting and parameter that a page or a help shows is one that the program takes."""

from __future__ import annotations

import functools
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.utilities.callables import parameter_schema

from llmdiff.encoder import EncoderConfig
from llmdiff.training.config import TrainSettings
from pipelines.cli.commands import program
from pipelines.cli.config_files import read_settings
from tests.docs.deployments import DEPLOYMENTS
from tests.docs.pages import HISTORY, PAGES, blocks, command_lines, llmdiff_commands, name_of, spans

PROGRAM = program()
SHELL = ("bash",)
SETTINGS: dict[str, dict[str, Callable[[dict[str, Any]], object]]] = {  # what checks an option's settings, by command
    "encode": {"--set": EncoderConfig.from_dict},
    "inspect": {"--set": EncoderConfig.from_dict},
    "verify": {"--set": EncoderConfig.from_dict},
    "train": {"--set": TrainSettings.model_validate},
    "retrain": {"--set": TrainSettings.model_validate, "--encoder-set": EncoderConfig.from_dict},
}
OTHERS = {  # options of other programs that the pages name
    "--watch", "--param", "--params", "--no_ssh", "--node_rank", "--only", "--write", "--bf16", "--tf32", "--share",
    "--price", "--gpus", "--gpu", "--memory", "--machines", "--disk", "--rows", "--type", "--base-job-template",
    "--verifiers", "--writers",
}  # fmt: skip


def commands_of_help(command: Any = PROGRAM) -> Iterator[str]:
    """Yield the examples in the helps of all commands."""
    for one in getattr(command, "commands", {}).values():
        yield from commands_of_help(one)
    for text in (command.epilog, command.help):
        yield from re.findall(r"(?:Example|Several hosts|Start with): (llmdiff .*)", text or "")


def find(words: list[str]) -> tuple[Any, list[str]]:
    """Return the command that some words name, and the words after its name."""
    command, rest = PROGRAM, [word for word in words if word != "--debug"]
    while rest and rest[0] in getattr(command, "commands", {}):
        command, rest = command.commands[rest[0]], rest[1:]
    return command, rest


def check(words: list[str]) -> None:
    """Raise what the program raises where it refuses a command, or one of the settings that it is given."""
    command, rest = find(words)
    command.make_context(command.name, list(rest))
    for option, kind in SETTINGS.get(command.name, {}).items():
        given = [value for word, value in zip(rest, rest[1:], strict=False) if word == option]
        kind(read_settings(None, given))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_of_a_page_parses(page: Path) -> None:
    for block in blocks(page, *SHELL):
        for arguments in llmdiff_commands(block):
            check(arguments)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_block_of_commands_says_that_it_is_one(page: Path) -> None:
    commands = re.compile(r"^(\.venv/bin/|make |llmdiff |prefect |pip |export )", re.MULTILINE)
    assert [block for block in blocks(page, "", "text") if commands.search(block)] == []


def test_the_pages_show_most_commands() -> None:
    shown = {
        find(arguments)[0].name
        for page in PAGES
        for block in blocks(page, *SHELL)
        for arguments in llmdiff_commands(block)
    }
    assert {"encode", "train", "generate", "evaluate", "promote", "retrain", "verify", "gc", "demo"} <= shown


@pytest.mark.parametrize("line", sorted(set(commands_of_help())))
def test_every_command_of_a_help_parses(line: str) -> None:
    for arguments in llmdiff_commands(line):
        check(arguments)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_in_a_sentence_exists_with_its_options(page: Path) -> None:
    for span in spans(page):
        words = span.replace("…", "").split()
        if not words or words[0].rpartition("/")[2] != "llmdiff" or "COMMAND" in words or not words[1:]:
            continue
        command, rest = find(words[1:])
        assert command is not PROGRAM or not rest, f"{name_of(page)}: no such command: {span}"
        known = options_of(command)
        assert [word for word in rest if word.startswith("--") and word not in known] == [], span


@pytest.mark.parametrize("page", [page for page in PAGES if page != HISTORY], ids=name_of)
def test_every_option_in_a_sentence_exists(page: Path) -> None:
    known = options_of(PROGRAM) | OTHERS
    named = {span.split()[0].split("=")[0] for span in spans(page) if span.startswith("--")}
    assert sorted(named - known) == []


@pytest.mark.parametrize("page", [page for page in PAGES if page != HISTORY], ids=name_of)
def test_every_setting_in_a_sentence_exists(page: Path) -> None:
    for span in spans(page):
        if found := re.fullmatch(r"--(set|encoder-set) ([a-z_.]+)=(.*)", span):
            read = read_settings(None, [f"{found[2]}={found[3]}"])
            assert any(accepts(check, read) for check in (EncoderConfig.from_dict, TrainSettings.model_validate)), span


def accepts(check: Callable[[dict[str, Any]], object], settings: dict[str, Any]) -> bool:
    """Return whether some settings are known and in their bounds."""
    try:
        check(settings)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_parameter_of_a_deployment_exists(page: Path) -> None:
    for block in blocks(page, *SHELL):
        for words in command_lines(block):
            if "deployment" not in words or not any(word.endswith("prefect") for word in words):
                continue
            schema = schema_of(words[words.index("run") + 1])
            for option, value in zip(words, words[1:], strict=False):
                if option == "--param":
                    check_parameter(schema, value)


@functools.cache
def schema_of(deployment: str) -> dict[str, Any]:
    """Return the schema of a deployment's parameters."""
    assert deployment in DEPLOYMENTS, f"no deployment {deployment}; expected one of {', '.join(DEPLOYMENTS)}"
    return parameter_schema(DEPLOYMENTS[deployment].fn).model_dump()


def check_parameter(schema: dict[str, Any], given: str) -> None:
    """Raise AssertionError where a parameter is unknown, or holds a setting that is."""
    key, _, text = given.partition("=")
    assert key in schema["properties"], f"no parameter {key}; expected one of {', '.join(schema['properties'])}"
    value = yaml.safe_load(text)
    if isinstance(value, dict):
        definition = schema["definitions"][schema["properties"][key]["$ref"].rpartition("/")[2]]
        assert sorted(set(value) - set(definition["properties"])) == []


def options_of(command: Any) -> set[str]:
    """Return the options of a command and of all below it."""
    own = {name for one in command.params for name in (*one.opts, *one.secondary_opts)} | {"--help"}
    return own.union(*(options_of(one) for one in getattr(command, "commands", {}).values()))


def test_a_wrong_option_and_a_wrong_setting_are_found() -> None:
    with pytest.raises(Exception, match="No such option: --nothing"):
        check(shlex.split("store info runs/store --nothing 3"))
    with pytest.raises(Exception, match="Missing parameter: store"):
        check(shlex.split("train --diffusion d"))
    with pytest.raises(ValueError, match="stepz"):
        check(shlex.split("train --store s --diffusion d --set stepz=3"))
    with pytest.raises(AssertionError, match="no parameter stor;"):
        check_parameter(schema_of("train/default"), "stor=runs/store")
