"""`llmdiff store`: what each command prints, as lines and as JSON, and with what it exits."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipelines.cli.main import main
from pipelines.requests.encode import EncodeRequest
from storage import EncodingStore, ShardWriter, caption_hash, content_hash
from storage.maintenance.summary import list_shards
from storage.maintenance.verify import verify
from tests.pipelines.conftest import BROKEN, EMPTY, FINE, Server, World
from tests.storage import synthetic

COMMANDS = ("info", "ls", "verify", "gc", "optimize", "export", "rejects")


class Done:
    """What a command printed, and its exit code."""

    def __init__(self, capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> None:
        with pytest.raises(SystemExit) as ended:
            main(["store", *map(str, arguments)])
        self.code = ended.value.code
        self.out, self.err = capsys.readouterr()

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    @property
    def json(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.out)
        return document

    @property
    def error(self) -> str:
        """The one line that a command failed with."""
        assert self.code == 1
        assert self.out == ""
        (line,) = [line for line in self.err.splitlines() if line.startswith("error: ")]
        return line.removeprefix("error: ")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sources a and b under the LLM, and the first rows of a under the base's encoder: version 3."""
    path = tmp_path_factory.mktemp("whole") / "store"
    store, llm = synthetic.make_store(path)
    for source in ("a", "b"):
        synthetic.encode(store, llm, source, shard=source)
    synthetic.encode(store, store.register_fingerprint(synthetic.BASE), "a", range(5), shard="base")
    return path


@pytest.fixture
def path(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "store"))


def fingerprint(path: Path, kind: str = "llm") -> str:
    (found,) = [key for key, entry in EncodingStore.open(path).fingerprints().items() if entry["kind"] == kind]
    return found


def flip_a_byte(path: Path, shard: str = "a", array: str = "encodings") -> str:
    """Flip a byte of the first chunk of a shard's array; return the file's name in the store."""
    file = next(file for file in sorted((path / "shards" / shard / array).rglob("c/**/*")) if file.is_file())
    content = bytearray(file.read_bytes())
    content[100] ^= 1
    file.write_bytes(content)
    return file.relative_to(path).as_posix()


def contents(path: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in path.rglob("*") if file.is_file() and file.parent.name != "writing"}


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    done = Done(capsys, command, "--help")
    assert done.code == 0
    assert f"Example: llmdiff store {command} runs/store" in " ".join(done.out.split())
    assert "--json" in done.out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_answers_in_json_alone(
    command: str, path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--out", tmp_path / "out", "--fingerprint", fingerprint(path)] if command == "export" else []
    done = Done(capsys, command, path, "--json", *more)
    assert done.code == 0
    assert done.json["path"] == str(path)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_store_that_is_not_there(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = ["--out", tmp_path / "out"] if command == "export" else []
    assert Done(capsys, command, tmp_path / "gone", *more).error == f"{tmp_path / 'gone'}: no such store"


def test_optimize(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    planned = Done(capsys, "optimize", path, "--dry-run").lines
    assert planned == [
        "index: 3 files, 3 would be merged into 1, 41 rows",
        "rejects: 2 files, 2 would be merged into 1, 4 rows",
        "repeats: 0 files, left as they are",
    ]
    assert EncodingStore.open(path).version == 3
    done = Done(capsys, "optimize", path)
    assert done.lines == [line.replace("would be ", "") for line in planned]
    assert "optimize" in done.err
    assert Done(capsys, "optimize", path).lines[0] == "index: 1 files, left as they are"
    assert Done(capsys, "verify", path).code == 0


def test_info_of_a_version(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert {"version: 3", "samples: 41"} <= set(Done(capsys, "info", path).lines)
    values = Done(capsys, "info", path, "--version", "1", "--json").json
    assert (values["version"], values["samples"], values["shards"]) == (1, 18, 1)
    assert "expected version 9, found versions 0 to 3" in Done(capsys, "info", path, "--version", "9").error


def test_ls_is_an_aligned_table(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = Done(capsys, "ls", path).lines
    assert [line.split()[:2] for line in lines] == [["name", "samples"], ["a", "18"], ["b", "18"], ["base", "5"]]
    assert len({len(line) for line in lines}) == 1
    shards = Done(capsys, "ls", path, "--json").json["shards"]
    assert [list(shard) for shard in shards] == [["name", "samples", "encodings", "tokens", "latents", "bytes"]] * 3
    assert lines[1].split() == [str(value) for value in shards[0].values()]
    assert [shard["name"] for shard in Done(capsys, "ls", path, "--version", "1", "--json").json["shards"]] == ["a"]


def test_verify_names_every_problem_and_its_exit_code_tells(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = Done(capsys, "verify", path)
    assert (done.code, done.lines) == (0, ["every checksum is right"])
    (path / "shards" / "of-nobody").mkdir()
    damaged = flip_a_byte(path)
    done = Done(capsys, "verify", path)
    assert done.code == 1
    assert done.lines[0].startswith(f"flipped: {damaged}: expected CRC-32C ")
    assert done.lines[1:] == ["orphan: shards/of-nobody: no version names it", "2 problems"]
    assert "`llmdiff store gc` removes" in done.err
    done = Done(capsys, "verify", path, "--json")
    assert done.code == 1
    assert not done.json["ok"]
    assert [(problem["kind"], problem["path"]) for problem in done.json["problems"]] == [
        ("flipped", damaged),
        ("orphan", "shards/of-nobody"),
    ]
    assert done.json["problems"][0]["encodings_lost"] > 0


def test_repair_needs_data_before_anything_is_done(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flip_a_byte(path)
    before = contents(path)
    assert "expected --data and the other options" in Done(capsys, "verify", path, "--repair").error
    assert "no such file or folder" in Done(capsys, "verify", path, "--repair", "--data", path / "gone").error
    assert contents(path) == before


def test_gc_tells_first_and_then_does_it(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = fingerprint(path, "base")
    before = contents(path)
    planned = Done(capsys, "gc", path, "--drop-fingerprint", base, "--keep-last", "1", "--dry-run")
    assert planned.lines[0] == f"would be taken out: 5 samples of {base}; their files are not counted below"
    assert contents(path) == before
    done = Done(capsys, "gc", path, "--drop-fingerprint", base, "--keep-last", "1", "--json").json
    assert (done["dropped_samples"], done["version"], done["kept_versions"]) == (5, 4, [4])
    assert "shards/base" in done["removed"]
    assert done["bytes"] == sum(map(len, before.values())) - sum(
        len(content) for file, content in contents(path).items() if file in before
    )
    store = EncodingStore.open(path)
    assert synthetic.rows_of(store, fingerprint(path)) == synthetic.expected_rows("a") + synthetic.expected_rows("b")
    assert verify(store) == []
    assert "expected one of" in Done(capsys, "gc", path, "--drop-fingerprint", base).error


def test_gc_keeps_the_versions_it_is_told(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    llm = fingerprint(path)
    assert "expected version 9" in Done(capsys, "gc", path, "--keep", "9", "--drop-fingerprint", llm).error
    assert EncodingStore.open(path).version == 3, "nothing is dropped where the rest can't be done"
    assert Done(capsys, "gc", path).lines == ["removed: 0 files and shards, 0 bytes", "versions kept: all"]
    done = Done(capsys, "gc", path, "--drop-fingerprint", llm, "--keep", "1", "--keep-last", "2", "--dry-run")
    assert done.lines[-1] == "versions kept: 1, 2, 3"
    done = Done(capsys, "gc", path, "--drop-fingerprint", llm, "--keep", "1", "--keep-last", "1")
    assert done.lines[-1] == "versions kept: 1, 4"
    assert synthetic.rows_of(EncodingStore.open(path, version=1), llm) == synthetic.expected_rows("a")
    # version 0 is empty: nothing of it can be gone
    assert Done(capsys, "gc", path, "--keep-last", "9", "--json").json["kept_versions"] == [0, 1, 4]


def test_export_chooses_where_there_is_no_choice(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert "expected one fingerprint, or --fingerprint; found " in Done(capsys, "export", path, "--out", out).error
    done = Done(capsys, "export", path, "--out", out, "--format", "parquet", "--version", "1")
    assert done.lines == [str(out / "samples-00000.parquet")]
    assert len(pq.read_table(out / "samples-00000.parquet")) == 18
    assert "expected a new or empty folder" in Done(capsys, "export", path, "--out", out, "--version", "1").error


def test_rejects_of_a_reason(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert Done(capsys, "rejects", path).lines[0] == "a.parquet row 6: empty_caption: the caption is empty"
    assert len(Done(capsys, "rejects", path, "--reason", "empty_caption").lines) == 4
    assert Done(capsys, "rejects", path, "--reason", "broken_image").lines == []
    row = Done(capsys, "rejects", path, "--json").json["rejects"][0]
    assert list(row) == ["source", "source_hash", "row", "reason", "detail", "fingerprint"]


def test_what_the_data_do_not_bring_back_is_told(
    path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shards of two sources and of a prompt are lost; the data are one source, as its encode would find them."""
    from pipelines.flows import repair

    llm = fingerprint(path)
    store = EncodingStore.open(path)
    with ShardWriter(store, "prompt", llm) as writer:
        writer.add_encoding(caption_hash("a prompt"), synthetic.encoding("a prompt"))
    for shard in ("a", "b", "prompt"):
        shutil.rmtree(path / "shards" / shard)
    monkeypatch.setattr(repair, "check", lambda arguments: {content_hash(b"a")})
    monkeypatch.setattr(
        repair, "encode", lambda arguments: print("noise", synthetic.encode(store, llm, "a"), file=sys.stderr)
    )
    data = path.with_name("captions.txt")
    data.write_text("a caption\n")
    done = Done(capsys, "verify", path, "--repair", "--data", data, "--llm", "x")
    assert done.code == 1
    numbers = ", ".join(str(row) for row in range(20) if row % 7 != 6)
    for line in (
        f"lost: a.parquet under {llm}: 18 rows",
        f"lost: b.parquet under {llm}: 18 rows",
        "lost: 1 captions without a picture",
        "encoded again: 18 rows, 0 captions without a picture",
        f"still missing: b.parquet under {llm}: rows {numbers}",
        f"still missing: caption {caption_hash('a prompt')} under {llm}",
    ):
        assert line in done.lines
    assert done.lines[-1] == "every checksum is right"


def test_verify_mends(world: World, in_process: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Damage to captions with and without pictures, and to latents; the right data bring all of it back."""
    from pipelines.flows.encode import encode_flow

    path, prompts = tmp_path / "store", tmp_path / "prompts.txt"
    prompts.write_text("a red circle\n")
    first = encode_flow(
        EncodeRequest(
            data=world.data, store=str(path), diffusion=world.diffusion, llm=world.llm, captions=["a red circle"]
        )
    )
    capsys.readouterr()
    store = EncodingStore.open(path)
    before = store.samples(first.fingerprint).select(["source", "source_hash", "row", "caption", "latent_key"])
    encodings = {
        key: store.encoding(first.fingerprint, key) for key in set(store.samples()["caption_hash"].to_pylist())
    }
    for shard in list_shards(store):
        if shard.samples == 0:
            shutil.rmtree(path / "shards" / shard.name)
    damaged = next(shard.name for shard in list_shards(store) if shard.samples == 10)
    flip_a_byte(path, damaged)
    flip_a_byte(path, damaged, "latents")

    repair = ["verify", path, "--repair", "--data", world.data, "--diffusion", world.diffusion, "--json"]
    assert "expected the folder or name of a decoder-only LLM" in Done(capsys, *repair).error
    assert store.version == first.store_version
    done = Done(capsys, *repair, "--llm", world.llm, "--captions", prompts)
    assert done.code == 0, done.out + done.err
    assert done.json["ok"]
    repaired = done.json["repair"]
    assert repaired["moved"] > 0
    (lost,) = repaired["lost"]
    assert lost["source"] == "a.parquet"
    assert 0 < len(lost["rows"]) <= 10
    assert len(repaired["lost_captions"]) == 2, "the empty caption, and the prompt"
    assert repaired["missing"] == repaired["missing_captions"] == repaired["problems"] == []
    store = EncodingStore.open(path)
    assert store.samples(first.fingerprint).select(before.column_names).equals(before)
    for key, bits in encodings.items():
        assert (store.encoding(first.fingerprint, key) == bits).all()
    assert store.snapshot().encodings(first.fingerprint, [caption_hash(""), caption_hash("a red circle")]).keys() == {
        caption_hash(""),
        caption_hash("a red circle"),
    }
    assert len(store.samples()) == FINE
    assert len(store.rejects()) == BROKEN + EMPTY
