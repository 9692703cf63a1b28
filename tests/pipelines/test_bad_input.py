"""One clear line for every kind of bad input of the commands that start flows."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.cli.main import main
from storage import EncodingStore
from storage.maintenance.verify import verify
from tests.adapter import tiny
from tests.damage import flip
from tests.data.pictures import encoded, picture, write_parquet
from tests.pipelines.command_line import fails, succeeds
from tests.pipelines.conftest import Deployed, Server, World
from tests.small_disk import mounted


@pytest.mark.parametrize("command", [("encode", "--data", "x", "--diffusion", "x", "--store", "x"), ("generate",)])
def test_captions_that_are_not_utf8(
    command: tuple[str, ...], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "captions.txt"
    file.write_bytes("a cat\nein Kätzchen\n".encode("latin-1"))
    line = fails(capsys, *command, "--captions" if command[0] == "encode" else "--prompts", file)
    assert line == f"{file}: line 2: expected UTF-8 text, found byte 0xe4"


def test_a_full_disk_for_the_records_of_flows(
    small_disk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMDIFF_HOME", str(small_disk))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    (tmp_path / "a.txt").write_text("a cat")
    line = fails(capsys, "encode", "--data", tmp_path / "a.txt", "--store", "x")
    assert line.startswith(f"{small_disk}: No space left on device: expected 20 MB free")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--llm", "l", "--bucket-step", "32"), "retrain: bucket_step: expected none without buckets, found 32"),
        (
            ("--llm", "l", "--device-map", "auto", "--ray", "local"),
            "retrain: device_map: expected none with ray, a GPU a process, found auto",
        ),
        ((), 'llm: expected the folder or name of a decoder-only LLM; or encoder "base"'),
        (("--encoder", "base", "--encoder-set", "bands=2"), 'settings: encoder "base" has none, found bands'),
    ],
)
def test_choices_that_retraining_refuses_before_it_makes_a_store(
    options: tuple[str, ...],
    expected: str,
    world: World,
    own_home: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = ("--data", world.data, "--store", tmp_path / "store", "--diffusion", world.diffusion)
    assert fails(capsys, "retrain", *given, *options) == expected
    assert not (tmp_path / "store").exists()


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
        assert 'expected one kind of "llm" encodings, found none: encode first' in line

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

    def test_prompts_of_a_file_make_a_grid(
        self, deployed: Deployed, world: World, in_process: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "prompts.txt").write_text("a red circle\n\na blue square\n")
        options = ["--adapter", deployed.output / "adapter", "--llm", world.llm, "--output", tmp_path / "out"]
        text = succeeds(capsys, "generate", "--prompts", tmp_path / "prompts.txt", *options, "--steps", "1")
        assert f"2 prompts with and without the adapter: {tmp_path / 'out' / 'grid.png'}" in text
        assert len(list((tmp_path / "out" / "adapter").glob("*.png"))) == 2
