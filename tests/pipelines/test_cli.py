"""The command line: help at once, commands that need no flow, and errors in one line."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from llmdiff.data.sources import open_source
from llmdiff.encoder import EncoderConfig
from llmdiff.shapes import DIFFUSION, LLAMA
from llmdiff.shapes.captions import PROMPT
from pipelines.cli.main import error_line, main
from pipelines.cli.settings_help import encoder_settings
from pipelines.flows.retrain import retrain_flow
from storage import EncodingStore, ShardWriter
from tests.pipelines.command_line import fails, succeeds
from tests.pipelines.conftest import ROOT

HEAVY = ("torch", "transformers", "diffusers", "deepspeed", "prefect", "mlflow", "matplotlib")
COMMANDS = (
    "demo",
    "shapes",
    "probe",
    "encode",
    "train",
    "generate",
    "evaluate",
    "inspect",
    "store",
    "study",
    "retrain",
    "announce",
    "doctor",
)


@pytest.mark.parametrize(
    "command",
    [
        (),
        *((name,) for name in COMMANDS),
        ("store", "info"),
        ("store", "rejects"),
        ("store", "verify"),
        ("study", "pathways"),
    ],
)
def test_every_help_shows_an_example(command: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    text = succeeds(capsys, *command, "--help")
    assert "llmdiff " + " ".join(command) in text.replace("\n", " ")
    assert ("Example: llmdiff" in text) or command == ()


@pytest.mark.process
@pytest.mark.parametrize("arguments", [["--help"], ["encode", "--help"], ["doctor"], ["store", "info", "{store}"]])
def test_quick_commands_import_nothing_heavy(arguments: list[str], tmp_path: Path) -> None:
    EncodingStore.create(tmp_path / "store")
    given = [argument.format(store=tmp_path / "store") for argument in arguments]
    script = (
        "import sys, atexit\n"
        f"atexit.register(lambda: print('HEAVY', [m for m in {HEAVY!r} if m in sys.modules]))\n"
        f"from pipelines.cli.main import main\nmain({given!r})"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "HEAVY []"


ALL_COMMANDS = (*((name,) for name in (*COMMANDS, "lineage", "promote", "rollback")), ("store", "verify"))
BARE = """
import sys
from llmdiff.extras import PACKAGES

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in MISSING:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

MISSING = {*PACKAGES, "psutil", "pandas", "fastapi", "sqlalchemy", "httpx"}
sys.meta_path.insert(0, Missing())
import contextlib, io, json
import importlib.util
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name in MISSING else find_spec(name, *rest)
from pipelines.cli.main import main
told = []
for arguments in json.loads(sys.argv[1]):
    out, error = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error), contextlib.suppress(SystemExit):
        main(arguments)
    told.append([out.getvalue(), error.getvalue()])
print(json.dumps(told))
"""


def bare(*commands: tuple[str, ...]) -> list[tuple[str, str]]:
    """What commands print, on both streams, where the packages of no extra are installed."""
    done = subprocess.run([sys.executable, "-c", BARE, json.dumps(commands)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [(out, error) for out, error in json.loads(done.stdout)]


@pytest.mark.process
def test_help_needs_no_extra() -> None:
    for out, error in bare(("--help",), *((*command, "--help") for command in ALL_COMMANDS)):
        assert error == ""
        assert out.startswith("Usage: ")


@pytest.mark.process
def test_a_probe_needs_no_extra() -> None:
    sizes = ("--captions", "8", "--tests", "2", "--steps", "1", "--json")
    ((out, error),) = bare(("probe", "--llm", str(LLAMA), "--diffusion", str(DIFFUSION), *sizes))
    assert "error: " not in error
    assert len(json.loads(out)["rows"]) == 9


@pytest.mark.process
def test_a_command_whose_extra_is_missing_says_which_to_install(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a cat")
    flows = "error: this needs Prefect: pip install 'llmdiff[pipelines]'\n"
    needs = {
        ("demo",): flows,
        ("encode", "--data", str(tmp_path / "a.txt"), "--store", "x", "--llm", "x"): flows,
        ("train", "--store", "x", "--diffusion", "x"): flows,
        ("generate", "--prompt", "x"): flows,
        ("evaluate",): flows,
        ("promote",): flows,
        ("retrain", "--data", str(tmp_path), "--store", "x", "--diffusion", "x"): flows,
        ("study", "pathways"): flows,
        ("rollback",): "error: this needs MLflow: pip install 'llmdiff[pipelines]'\n",
        ("store", "info", str(tmp_path)): "[store]'\n",
        ("shapes", str(tmp_path / "data"), "--pictures", "1"): "[store]'\n",
    }
    for (command, expected), (_, error) in zip(needs.items(), bare(*needs), strict=True):
        assert error.endswith(expected), command


def test_shapes_draws_data_that_the_sources_read(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    parameters = tmp_path / "first" / "retrain.json"
    given = ("shapes", tmp_path / "data", "--pictures", "3", "--seed", "1", "--retrain", parameters)
    printed = succeeds(capsys, *given).splitlines()
    (shard,) = open_source(tmp_path / "data")
    assert (shard.count, shard.has_pictures, Path(printed[0]).is_file()) == (3, True, True)
    assert f"--llm {LLAMA}" in printed[1]
    assert printed[2].endswith(str(parameters))
    found = retrain_flow.flow.validate_parameters(json.loads(parameters.read_text()))
    assert (found["data"], found["encoder_settings"].template) == (str(tmp_path / "data"), PROMPT)


def test_every_encoder_setting_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    told = " ".join(succeeds(capsys, "encode", "--help").split())
    texts = encoder_settings()
    assert set(texts) == {field.name for field in dataclasses.fields(EncoderConfig)}
    for name, text in texts.items():
        assert f"{name}: {text}" in told


def test_inspect_prints_the_norms_and_writes_the_heat_map(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    told = succeeds(
        capsys, "inspect", "a red circle", "--llm", LLAMA, "--out", tmp_path / "map.png", "--set", "dtype=float32"
    )
    lines = [line.split() for line in told.splitlines()]
    assert lines[0] == ["block", "token", "sentence", "word", "context"]
    assert [line[1] for line in lines[1:5]] == ["Ġa", "Ġred", "Ġcircle", "<|endoftext|>"]
    assert {line[4] for line in lines[1:21] if line[1] == "Ġa"} == {"0"}
    assert f"heat map: {tmp_path / 'map.png'}" in told
    with Image.open(tmp_path / "map.png") as image:
        assert min(image.size) > 100
    assert (
        fails(capsys, "inspect", "a", "--llm", tmp_path / "gone") == f"LLM folder {tmp_path / 'gone'}: no such folder"
    )


def test_store_verify_finds_a_changed_byte(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    import numpy as np

    from storage import caption_hash

    store = EncodingStore.create(tmp_path / "store")
    fingerprint = store.register_fingerprint({"kind": "llm"})
    with ShardWriter(store, fingerprint=fingerprint) as writer:
        writer.add_encoding(caption_hash("x"), np.ones((4, 8), np.uint16))
    assert "every checksum is right" in succeeds(capsys, "store", "verify", store.path)
    chunk = max((store.path / "shards").rglob("c/*/*"), key=lambda path: path.stat().st_size)
    data = bytearray(chunk.read_bytes())
    data[len(data) // 2] ^= 1
    chunk.write_bytes(bytes(data))
    with pytest.raises(SystemExit) as ended:
        main(["store", "verify", str(store.path)])
    assert ended.value.code == 1
    assert chunk.relative_to(store.path).as_posix() in capsys.readouterr().out


def test_a_store_that_is_not_there(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert fails(capsys, "store", "info", tmp_path / "gone") == f"{tmp_path / 'gone'}: no such store"
    assert "expected an encoding store" in fails(capsys, "store", "info", tmp_path)
    (tmp_path / "file").touch()
    assert fails(capsys, "store", "info", tmp_path / "file").endswith("file: expected an encoding store, found a file")


def test_a_new_store_has_no_rejects_and_no_writers(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    lines = succeeds(capsys, "store", "info", EncodingStore.create(tmp_path / "store").path).splitlines()
    assert {"rejects: none", "being_written: none"} <= set(lines)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(28, "No space left on device", "a/b"), "a/b: No space left on device"),
        (FileNotFoundError("a: no such store"), "a: no such store"),
        (ValueError("two\nlines"), "two lines"),
        (KeyError("x"), "KeyError: 'x'"),
    ],
)
def test_an_error_is_one_line(error: Exception, line: str) -> None:
    assert error_line(error) == line


def debugged(folder: Path, place: int) -> list[str]:
    """A command that fails, with --debug among its arguments."""
    arguments = ["store", "info", str(folder / "gone")]
    return [*arguments[:place], "--debug", *arguments[place:]]


@pytest.mark.parametrize("place", range(4))
def test_debug_lets_the_error_through(tmp_path: Path, place: int) -> None:
    with pytest.raises(FileNotFoundError, match="gone: no such store"):
        main(debugged(tmp_path, place))


@pytest.mark.process
def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    script = f"from pipelines.cli.main import main\nmain({debugged(tmp_path, 3)!r})"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "Traceback (most recent call last)" in done.stderr
    assert "FileNotFoundError" in done.stderr
