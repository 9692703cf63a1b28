"""What an earlier version wrote, unpacked, and today's commands at work on a copy of it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.python_path import python_path
from tests.training.training_run import LAUNCHED

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
EXPECTED: dict[str, Any] = json.loads((HERE / "expected.json").read_text())

# Several commands in one process, for the engine of flows takes seconds to start; prints what each printed.
COMMANDS = """
import contextlib, io, json, sys
from pipelines.cli.main import main

done = {}
for name, arguments in json.load(sys.stdin).items():
    printed, code = io.StringIO(), 0
    with contextlib.redirect_stdout(printed):
        try:
            main(arguments)
        except SystemExit as end:
            code = end.code or 0
    done[name] = {"code": code, "printed": printed.getvalue()}
print(json.dumps(done))
"""


def unpack(folder: Path) -> Path:
    """The archive's things in a folder, as if they had been made there, on this host."""
    with tarfile.open(HERE / "written.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    marks = {b"@ROOT@": str(folder).encode(), b"@HOST@": socket.gethostname().encode()}
    for path in filter(Path.is_file, folder.rglob("*")):
        before = after = path.read_bytes()
        for mark, name in marks.items():
            after = after.replace(mark, name)
        if after != before:
            path.write_bytes(after)
    with sqlite3.connect(folder / "runs" / "mlflow.db") as database:
        database.executescript((folder / "mlflow.sql").read_text())
    return folder


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What was written before; nobody changes it."""
    return unpack(tmp_path_factory.mktemp("written"))


@pytest.fixture
def store(written: Path, tmp_path: Path) -> Path:
    """A copy of the store, which may be written to."""
    return Path(shutil.copytree(written / "store", tmp_path / "store"))


@pytest.fixture
def there(written: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that the user was in, with its registry."""
    monkeypatch.chdir(written)
    monkeypatch.setenv("LLMDIFF_HOME", str(written / "runs"))
    return written


class Done(NamedTuple):
    """The folder that commands were run in, and what each printed."""

    folder: Path
    printed: dict[str, str]


@pytest.fixture(scope="module")
def legacy_commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, subprocess.Popen[str]]]:
    """The commands at work, in a folder of their own, while other tests are run."""
    folder = unpack(tmp_path_factory.mktemp("commands"))
    ours = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    env = {name: value for name, value in ours.items() if name not in LAUNCHED}
    env |= {"LLMDIFF_HOME": str(folder / "runs"), "HOME": str(folder), "DS_ACCELERATOR": "cpu"}
    env["PYTHONPATH"] = python_path(ROOT)
    env.pop("MLFLOW_TRACKING_URI", None)
    command, pipe = [sys.executable, "-c", COMMANDS], subprocess.PIPE
    with subprocess.Popen(command, env=env, cwd=folder, text=True, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        assert process.stdin is not None
        process.stdin.write(json.dumps(commands()))
        process.stdin.close()
        process.stdin = None
        yield folder, process
        process.kill()


def commands() -> dict[str, list[str]]:
    """The commands that the earlier version was given too."""
    parts = ["--store", "store", "--diffusion", "base", "--llm", "llm"]
    settings = [part for key, value in EXPECTED["settings"].items() for part in ("--set", f"{key}={value}")]
    return {
        "resume": ["train", *parts, *settings, "--no-register"],
        "finished": ["train", *parts, *settings, "--output", "finished", "--no-register"],
        "encode": ["encode", "--data", "data", *parts, "--size", "64"],
        "encode base": ["encode", "--data", "data", *parts[:4], "--encoder", "base", "--size", "64"],
        "promote": ["promote", *EXPECTED["promotion"]],
        "lineage": ["lineage", "candidate", "--json"],
    }


@pytest.fixture
def done(legacy_commands: tuple[Path, subprocess.Popen[str]]) -> Done:
    """What the commands have done, once all have."""
    folder, process = legacy_commands
    if process not in RESULTS:
        RESULTS[process] = process.communicate(timeout=500)
    printed, errors = RESULTS[process]
    assert process.returncode == 0, errors
    results = json.loads(printed.splitlines()[-1])
    assert {name: each["code"] for name, each in results.items()} == dict.fromkeys(commands(), 0), errors
    return Done(folder, {name: each["printed"] for name, each in results.items()})


RESULTS: dict[subprocess.Popen[str], tuple[str, str]] = {}
