"""The command line: help at once, and one clear line for every kind of bad input."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from llmdiff.data.sources import open_source
from llmdiff.encoder import EncoderConfig
from llmdiff.shapes import DIFFUSION, LLAMA
from llmdiff.shapes.captions import PROMPT
from pipelines.cli.doctor import tar_fix
from pipelines.cli.main import error_line, main
from pipelines.cli.settings_help import encoder_settings
from pipelines.flows.retrain import retrain_flow
from storage import EncodingStore, ShardWriter
from storage.maintenance.verify import verify
from tests.adapter import tiny
from tests.damage import flip
from tests.data.pictures import encoded, picture, write_parquet
from tests.pipelines.conftest import ROOT, Deployed, Server, World
from tests.small_disk import mounted

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


def fails(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """The one line that a command fails with."""
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    assert ended.value.code == 1
    printed = capsys.readouterr()
    errors = [line for line in printed.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, printed.err
    assert "Traceback" not in printed.err
    return errors[0].removeprefix("error: ")


def succeeds(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    printed = capsys.readouterr()
    assert ended.value.code == 0, printed.err
    return printed.out


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


def test_doctor_says_what_this_machine_can_do(capsys: pytest.CaptureFixture[str]) -> None:
    text = succeeds(capsys, "doctor")
    for name in ("python", "packages", "kernels", "cpu", "gpu", "triton", "deepspeed", "disk", "prefect", "mlflow"):
        assert f" {name} " in text


@pytest.mark.parametrize(
    ("version", "safe"),
    [((3, 11, 13), False), ((3, 11, 14), True), ((3, 12, 11), False), ((3, 13, 6), True), ((3, 14, 0), True)],
)
def test_doctor_says_which_python_refuses_hostile_tars(version: tuple[int, int, int], safe: bool) -> None:
    text = tar_fix(*version)
    assert text.startswith("its tarfile refuses hostile tars" if safe else "its tarfile hangs on hostile tars")
    assert ("update to 3.11.14 " in text) == (version == (3, 11, 13))


def test_doctor_finds_a_server_that_does_not_answer(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    with pytest.raises(SystemExit) as ended:
        main(["doctor"])
    assert ended.value.code == 1
    assert "BAD  prefect        http://127.0.0.1:9/api does not answer" in capsys.readouterr().out


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


@pytest.mark.parametrize("command", [("encode", "--data", "x", "--diffusion", "x", "--store", "x"), ("generate",)])
def test_captions_that_are_not_utf8(
    command: tuple[str, ...], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "captions.txt"
    file.write_bytes("a cat\nein Kätzchen\n".encode("latin-1"))
    line = fails(capsys, *command, "--captions" if command[0] == "encode" else "--prompts", file)
    assert line == f"{file}: line 2: expected UTF-8 text, found byte 0xe4"


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


def test_a_full_disk_for_the_records_of_flows(
    small_disk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMDIFF_HOME", str(small_disk))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    (tmp_path / "a.txt").write_text("a cat")
    line = fails(capsys, "encode", "--data", tmp_path / "a.txt", "--store", "x")
    assert line.startswith(f"{small_disk}: No space left on device: expected 20 MB free")


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


class TestEncodeAtOnce:
    """Mistakes of `llmdiff encode` that are told before the engine of flows starts."""

    @pytest.fixture(autouse=True)
    def no_engine(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("pipelines.cli.encode.start_engine", lambda: pytest.fail("the engine was started"))

    @pytest.fixture
    def encode(self, tmp_path: Path) -> list[str | Path]:
        (tmp_path / "a.txt").write_text("a cat")
        return ["encode", "--store", tmp_path / "store", "--llm", "x", "--data"]

    def test_a_missing_folder(
        self, encode: list[str | Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        line = fails(capsys, *encode, tmp_path / "gone")
        assert line.startswith(f"{tmp_path / 'gone'}: no such file or folder; expected a file of .parquet, .arrow, ")

    def test_a_file_of_no_known_format(
        self, encode: list[str | Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "a.docx").touch()
        line = fails(capsys, *encode, tmp_path / "a.docx")
        assert line.startswith(f"{tmp_path / 'a.docx'}: expected a file of .parquet, .arrow, ")

    def test_an_unknown_setting(
        self, encode: list[str | Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """A file's is named with the file."""
        (tmp_path / "encode.yaml").write_text("bandz: 4\n")
        config = ("--config", tmp_path / "encode.yaml")
        told = "unknown encoder setting {}; expected some of reading, word_path, g"
        line = fails(capsys, *encode, tmp_path / "a.txt", *config)
        assert line.startswith(f"{tmp_path / 'encode.yaml'}: {told.format('bandz')}")
        (tmp_path / "encode.yaml").write_text("bands: 4\n")
        line = fails(capsys, *encode, tmp_path / "a.txt", *config, "--set", "seeed=1")
        assert line.startswith(told.format("seeed"))


class TestEncode:
    """Bad input of `llmdiff encode`."""

    @pytest.fixture
    def encode(self, world: World, in_process: Server, tmp_path: Path) -> list[str | Path]:
        return ["encode", "--diffusion", world.diffusion, "--store", tmp_path / "store"]

    def test_a_missing_folder(
        self, encode: list[str | Path], world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        line = fails(capsys, *encode, "--llm", world.llm, "--data", tmp_path / "gone")
        assert line.startswith(f"{tmp_path / 'gone'}: no such file or folder; expected ")
        assert not (tmp_path / "store").exists()

    def test_nothing_that_is_parquet(
        self, encode: list[str | Path], world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "x.parquet").write_bytes(b"not parquet, but long enough for a footer")
        line = fails(capsys, *encode, "--llm", world.llm, "--data", tmp_path / "x.parquet")
        assert line.startswith(f"{tmp_path / 'x.parquet'}: expected a Parquet file, found none: ")
        assert not (tmp_path / "store").exists()

    def test_bad_rows_are_counted_and_kept_with_their_reasons(
        self, encode: list[str | Path], world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        cut = encoded(picture(200, 200), "JPEG")[:900]
        rows = [(encoded(picture()), "a red circle"), (cut, "a broken JPEG"), (encoded(picture()), " ")]
        data = write_parquet(tmp_path / "data" / "a.parquet", rows)
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in (*encode, "--llm", world.llm, "--data", data)])
        assert ended.value.code == 0
        printed = capsys.readouterr()
        assert "rows 3 = known 0 + new 1 + rejected 2" in printed.out
        assert "rejected: 1 empty_caption, 1 truncated_image" in printed.out
        assert "rejected: a.parquet row 2: empty_caption: expected text, found ' '\n" in printed.err
        assert f"every rejected row: llmdiff store rejects {tmp_path / 'store'}\n" in printed.err
        lines = succeeds(capsys, "store", "rejects", tmp_path / "store").splitlines()
        assert lines[0].startswith("a.parquet row 1: truncated_image: OSError: ")
        assert lines[1] == "a.parquet row 2: empty_caption: expected text, found ' '"

    def test_no_row_that_can_be_used(
        self, encode: list[str | Path], world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        data = write_parquet(tmp_path / "data" / "a.parquet", [(encoded(picture()), " "), (b"junk", "x")])
        first, again = (fails(capsys, *encode, "--llm", world.llm, "--data", data) for _ in range(2))
        assert first.startswith(f"{data}: expected usable rows, found 2 rows and none usable; a.parquet row 0: empty_c")
        assert again.startswith(f"{data}: expected usable rows, found 2 rows and none usable; `llmdiff store rejects")
        (tmp_path / "metadata.jsonl").touch()
        line = fails(capsys, *encode, "--llm", world.llm, "--data", tmp_path / "metadata.jsonl")
        assert line.endswith("metadata.jsonl: expected usable rows, found 0 rows and none usable")

    def test_a_store_that_is_a_file_and_a_base_without_an_autoencoder(
        self, world: World, in_process: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "file").touch()
        encode = ["encode", "--llm", world.llm, "--data", world.data]
        line = fails(capsys, *encode, "--diffusion", world.diffusion, "--store", tmp_path / "file")
        assert line.startswith(f"{tmp_path / 'file'}: expected a folder for a store, found a file")
        shutil.copytree(world.diffusion, tmp_path / "sd", ignore=shutil.ignore_patterns("vae"))
        line = fails(capsys, *encode, "--diffusion", tmp_path / "sd", "--store", tmp_path / "store")
        assert line.startswith(f"diffusion folder {tmp_path / 'sd'}: its vae: no config.json")
        assert not (tmp_path / "store").exists()

    def test_an_llm_folder_without_a_tokenizer(
        self, encode: list[str | Path], world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        shutil.copytree(world.llm, tmp_path / "llm", ignore=shutil.ignore_patterns("tokenizer*"))
        line = fails(capsys, *encode, "--llm", tmp_path / "llm", "--data", world.data)
        assert line.startswith(f"LLM folder {tmp_path / 'llm'}: no tokenizer; expected one of ")
        assert not (tmp_path / "store").exists()

    def test_no_llm_at_all(self, encode: list[str | Path], world: World, capsys: pytest.CaptureFixture[str]) -> None:
        assert "expected the folder or name of a decoder-only LLM" in fails(capsys, *encode, "--data", world.data)

    def test_captions_alone(
        self, encode: list[str | Path], world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "a.txt").write_bytes("a red circle\na blue square\nein Kätzchen\n".encode("latin-1"))
        encode = ["encode", "--llm", world.llm, "--data", tmp_path / "a.txt", "--store", tmp_path / "store"]
        text = succeeds(capsys, *encode)
        assert "rows 3 = known 0 + new 2 + rejected 1\nrejected: 1 not_utf8\n" in text
        assert "pictures encoded: 0\n" in text
        assert "rows 3 = known 3 + new 0 + rejected 0\n" in succeeds(capsys, *encode)

    def test_pictures_without_a_diffusion_model(
        self, world: World, in_process: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        line = fails(capsys, "encode", "--llm", "x", "--data", world.data, "--store", tmp_path / "store")
        assert line.startswith("diffusion: expected the folder or name of a Stable Diffusion model")

    def test_a_full_disk(
        self, world: World, in_process: Server, small_disk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        rows = [(encoded(picture(seed=i)), f"caption {i}") for i in range(400)]
        data = write_parquet(tmp_path / "many" / "a.parquet", rows)
        store = small_disk / "store"
        encode = ["encode", "--diffusion", world.diffusion, "--store", store, "--llm", world.llm]
        line = fails(capsys, *encode, "--data", data)
        assert "No space left on device" in line
        opened = EncodingStore.open(store)
        assert len(opened.samples()) == 0
        assert verify(opened) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path / "disk", "300k") as folder:
        yield folder


class TestTrain:
    """Bad input of `llmdiff train`."""

    def test_no_store(
        self, world: World, in_process: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        line = fails(capsys, "train", "--store", tmp_path / "gone", "--diffusion", world.diffusion)
        assert line == f"{tmp_path / 'gone'}: no such store"

    def test_encodings_that_the_store_has_not(
        self, world: World, in_process: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        EncodingStore.create(tmp_path / "store")
        line = fails(capsys, "train", "--store", tmp_path / "store", "--diffusion", world.diffusion)
        assert 'expected one kind of "llm" encodings, found {}' in line

    @pytest.mark.parametrize(
        ("assignment", "message"),
        [
            ("stepz=3", "training settings: stepz: unknown; expected some of adapter, base_fingerprint, "),
            ("adapter.path=3", "training settings: adapter.path: unknown; expected some of base_context, "),
            ("adapter=3", "training settings: adapter: Input should be a valid dictionary"),
            ("steps=many", "training settings: steps: Input should be a valid integer"),
            ("adapter.base_context=t5", "training settings: adapter.base_context: "),
        ],
    )
    def test_an_unknown_or_wrong_setting(
        self,
        deployed: Deployed,
        world: World,
        in_process: Server,
        capsys: pytest.CaptureFixture[str],
        assignment: str,
        message: str,
    ) -> None:
        line = fails(capsys, "train", "--store", deployed.store, "--diffusion", world.diffusion, "--set", assignment)
        assert line.startswith(message)


class TestGenerate:
    """Bad input of `llmdiff generate`, and one good one."""

    def test_an_adapter_for_another_llm(
        self, deployed: Deployed, world: World, in_process: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        from tests.encoder import tiny_models

        tiny_models.build("phi").save_pretrained(tmp_path / "phi")
        tiny_models.tokenizer().save_pretrained(tmp_path / "phi")
        adapter = deployed.output / "adapter"
        line = fails(
            *(capsys, "generate", "--prompt", "x", "--adapter", adapter, "--llm", tmp_path / "phi"),
            *("--steps", "1", "--output", tmp_path / "out"),
        )
        assert not (tmp_path / "out").exists()
        assert line.startswith(f"{adapter}: the adapter was trained with another encoder")
        assert "expected" in line
        assert "found" in line

    def test_no_prompts(self, deployed: Deployed, in_process: Server, capsys: pytest.CaptureFixture[str]) -> None:
        assert "expected at least one, found none" in fails(
            capsys, "generate", "--adapter", deployed.output / "adapter"
        )

    def test_a_folder_that_holds_no_adapter(
        self, in_process: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        line = fails(capsys, "generate", "--prompt", "x", "--adapter", tmp_path)
        assert line.startswith(f"{tmp_path / 'adapter_config.json'}: not found; expected an adapter folder with ")

    def test_a_damaged_adapter(self, in_process: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        flip(tiny.adapter(tiny.unet()).save(tmp_path) / "adapter.safetensors")
        line = fails(capsys, "generate", "--prompt", "x", "--adapter", tmp_path)
        assert line.startswith(f"{tmp_path / 'adapter.safetensors'}: damaged: expected CRC-32 ")

    def test_prompts_of_a_file_make_a_sheet(
        self, deployed: Deployed, world: World, in_process: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "prompts.txt").write_text("a red circle\n\na blue square\n")
        options = ["--adapter", deployed.output / "adapter", "--llm", world.llm, "--output", tmp_path / "out"]
        text = succeeds(capsys, "generate", "--prompts", tmp_path / "prompts.txt", *options, "--steps", "1")
        assert f"2 prompts with and without the adapter: {tmp_path / 'out' / 'sheet.png'}" in text
        assert len(list((tmp_path / "out" / "adapter").glob("*.png"))) == 2
