"""``llmdiff encode --dry-run``: what a run would do, told without Prefect, models' weights or a byte written."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from diffusers import AutoencoderKL
from transformers import AutoModelForCausalLM, CLIPTextModel

from llmdiff.data.encode import ShardReport, encode_shard, prepare
from llmdiff.data.encode.preview import ROWS
from llmdiff.data.sources import open_source
from llmdiff.diffusion.latents import LatentEncoder
from llmdiff.encoder import Encoder, EncoderConfig
from pipelines.cli.main import main
from pipelines.requests.encode import EncodeRequest
from pipelines.runtime.encode.row_counts import keep_counts
from storage import EncodingStore
from tests.data.pictures import encoded, picture, write_parquet, write_tar
from tests.data.remote_servers import file_server
from tests.pipelines.conftest import BROKEN, EMPTY, FINE, World


@pytest.fixture(autouse=True)
def no_prefect_and_no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prefect is as if it were not installed, and whoever loads a model fails."""

    def load(*_: object, **__: object) -> None:
        raise AssertionError("expected no model, found one loaded")

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", load)
    monkeypatch.setattr(AutoencoderKL, "from_pretrained", load)
    monkeypatch.setattr(CLIPTextModel, "from_pretrained", load)
    monkeypatch.setitem(sys.modules, "prefect", None)


def dry_run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    with pytest.raises(SystemExit) as ended:
        main(["encode", "--dry-run", *map(str, arguments)])
    printed = capsys.readouterr()
    assert ended.value.code == 0, printed.err
    return printed.out


def test_it_says_what_a_run_would_do_and_writes_nothing(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(world.root.rglob("*"))
    models = ["--diffusion", world.diffusion, "--llm", world.llm]
    told = dry_run(capsys, "--data", world.data, "--store", tmp_path / "store", *models, "--rate", 100)
    rows = FINE + BROKEN + EMPTY
    for line in (
        f"2 shards, {rows} rows, {rows} of them with pictures",
        "  a.parquet: 12 rows, with pictures, from image, text",
        "  folder/metadata.jsonl: 14 rows, with pictures, from file_name, text",
        "40x30 pixels, of which 30x30 become 64x64",
        f"of the first {rows} rows would be rejected: 1 empty_caption, 1 truncated_image",
        "  a.parquet row 10: truncated_image: ",
        "latents: at most 1.23e-05 GB, pictures of 64x64 pixels",
        "pictures a second are read and decoded here in ",
        "with the models' 100 rows a second, as given",
        "nothing was written",
    ):
        assert line in told
    assert not (tmp_path / "store").exists()
    assert not (tmp_path / "runs").exists()
    assert sorted(world.root.rglob("*")) == before


def test_in_json_its_figures_are_those_of_the_run(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str], encoder_of_world: Encoder, vae: LatentEncoder
) -> None:
    models = ["--diffusion", world.diffusion, "--llm", world.llm, "--set", "dtype=float32"]
    told = json.loads(dry_run(capsys, "--data", world.data, "--store", tmp_path / "store", *models, "--json"))
    store = EncodingStore.create(tmp_path / "store")
    encoders = prepare(store, encoder_of_world, vae, told["size"])
    reports = [encode_shard(store, shard, encoders) for shard in open_source(world.data)]
    assert told["rows"] == sum(report.rows for report in reports)
    assert sum(told["rejected"].values()) == sum(report.rejected.total() for report in reports)
    tokens, captions = (sum(getattr(report, name) for report in reports) for name in ("tokens", "captions"))
    assert told["tokens_a_caption"] == pytest.approx(tokens / captions, rel=0.05)
    assert told["latent_bytes"] == sum(report.latents for report in reports) * 2 * 4 * 8 * 8
    assert (told["refused"], told["rate"], told["looked_at"]) == (None, None, told["rows"])


@pytest.fixture(scope="module")
def encoder_of_world() -> Encoder:
    from tests.encoder import tiny_models

    return Encoder(tiny_models.build("llama"), tiny_models.tokenizer(), EncoderConfig(dtype="float32"))


@pytest.fixture(scope="module")
def vae() -> LatentEncoder:
    from tests.adapter import tiny

    return LatentEncoder(tiny.vae())


def test_what_a_run_would_be_refused_for_is_told(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "the run would be refused: diffusion: expected the folder or name of a Stable Diffusion model" in dry_run(
        capsys, "--data", world.data, "--store", tmp_path / "store", "--llm", world.llm
    )
    (tmp_path / "a.txt").write_text("a red circle\n")
    asked = ["--data", tmp_path / "a.txt", "--store", tmp_path / "store", "--llm", world.llm]
    told = dry_run(capsys, *asked, "--diffusion", world.diffusion)
    assert "the run would be refused: data: expected pictures for the autoencoder" in told
    assert "refused" not in dry_run(capsys, *asked)


def test_a_folder_without_data_and_a_rate_without_a_dry_run_are_errors(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit):
        main(["encode", "--dry-run", "--data", str(tmp_path), "--store", str(tmp_path / "store")])
    assert "found none in it" in capsys.readouterr().err
    monkeypatch.delitem(sys.modules, "prefect")
    with pytest.raises(SystemExit):
        main(["encode", "--data", world.data, "--store", str(tmp_path / "store"), "--llm", world.llm, "--rate", "5"])
    assert "--rate: expected with --dry-run alone, found 5" in capsys.readouterr().err


def test_shards_that_break_off_and_pictures_behind_urls_are_told(world: World, tmp_path: Path) -> None:
    from pipelines.cli.dry_run import dry_run, lines

    write_parquet(tmp_path / "data" / "fine.parquet", [(encoded(picture(400, 300)), "a red circle")])
    (tmp_path / "data" / "bad.parquet").write_bytes(b"not parquet, but long enough for a footer")
    urls = ["http://127.0.0.1:9/a.png", "http://127.0.0.1:9/b.png"]
    pq.write_table(pa.table({"url": urls, "text": ["a", "b"], "width": [1, 2]}), tmp_path / "data" / "urls.parquet")
    asked = EncodeRequest(data=str(tmp_path / "data"), store="unused", diffusion=world.diffusion, encoder="base")
    found = dry_run(asked)
    told = "\n".join(lines(found))
    assert "bad.parquet: can't be read: " in told
    assert "2 of their pictures are behind URLs, and were not downloaded" in told
    assert "urls.parquet: 2 rows, with pictures, from url, text, not read: width" in told
    assert (found.rows, found.pictures, found.refused) == (3, 3, None)
    assert found.encoding_bytes == 3 * 12 * 32 * 2, "the base's own features are as long for every caption"


def test_buckets_and_mirror_images_are_told(world: World, tmp_path: Path) -> None:
    from pipelines.cli.dry_run import dry_run, lines

    write_parquet(tmp_path / "data" / "a.parquet", [(encoded(picture(400, 200)), "a red circle")])
    asked = EncodeRequest(data=str(tmp_path / "data"), store="unused", diffusion=world.diffusion, encoder="base")
    bucketed = asked.model_copy(update={"buckets": True})
    square, found, both = map(dry_run, (asked, bucketed, bucketed.model_copy(update={"flip": True})))
    assert "400x200 pixels, of which 200x200 become 64x64" in "\n".join(lines(square))
    assert "400x200 pixels, of which 400x182 become 88x40" in "\n".join(lines(found))
    assert (square.latent_bytes, found.latent_bytes, both.latent_bytes) == (512, 512, 1024)
    assert "in 21 buckets, and their mirror images" in "\n".join(lines(both))
    for step, why in (
        (12, "bucket_step: expected a multiple of 8 pixels, found 12"),
        (32, "expected at most a quarter"),
    ):
        told = dry_run(bucketed.model_copy(update={"bucket_step": step}))
        assert why in str(told.refused)
    assert (square.refused, found.refused, both.refused) == (None, None, None)


@pytest.mark.service  # of loopback
def test_a_tar_that_is_elsewhere_is_uncounted_unless_it_was_read_to_its_end(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its number of rows is unknown, and it has pictures: without a diffusion model the run would be refused."""
    from pipelines.cli.dry_run import dry_run, lines

    monkeypatch.setenv("LLMDIFF_HOME", str(tmp_path / "home"))
    sample = {"png": encoded(picture(16, 16)), "txt": "a red circle"}
    for name, rows in (("a.tar", 3), ("b.tar", ROWS)):
        members = {f"{row:04}.{ending}": data for row in range(rows) for ending, data in sample.items()}
        write_tar(tmp_path / "served" / name, members)
    with file_server(tmp_path / "served") as site:
        addresses = [f"{site.url}/{name}.tar" for name in "ab"]
        asked = EncodeRequest(data=" ".join(addresses), store="unused", diffusion=world.diffusion, encoder="base")
        found, counted = dry_run(asked), dry_run(asked.model_copy(update={"data": addresses[0]}))
        assert [shard.rows for shard in found.shards] == [3, None]
        assert (found.rows, found.pictures, found.encoding_bytes, found.latent_bytes, found.hours) == (None,) * 5
        assert (found.looked_at, found.size, found.rejected) == (ROWS, 64, {})
        told = lines(found)
        assert told[0] == "1 shards, 3 rows, 3 of them with pictures; 1 more are counted once they are fetched"
        assert "time (hours:minutes:seconds): not known, with the models left out: see --rate" in told
        assert (counted.rows, counted.pictures, counted.latent_bytes) == (3, 3, 3 * 512)
        without = dry_run(EncodeRequest(data=addresses[1], store="unused", llm=world.llm))
        assert "for the data have pictures" in str(without.refused)
        keep_counts(open_source(addresses[1]), [ShardReport(source="b.tar", rows=ROWS)])
        assert dry_run(asked).rows == ROWS + 3
