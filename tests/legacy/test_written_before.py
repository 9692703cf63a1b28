"""Stores, runs, adapters and registered versions that an earlier version wrote are read, and gone on with, by today's.

``written.tar.xz`` holds one of each and ``expected.json`` what that version itself read from them; see `README.md`.
"""

from __future__ import annotations

import fcntl
import io
import json
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from llmdiff import LLMAdapter, load_adapter
from pipelines.cli.main import main
from storage import EncodingStore, ShardWriter, caption_hash
from storage.locks.mutex import job_mutex
from storage.reading.dataset import DatasetConfig, EncodingDataset
from tests.legacy import contents
from tests.legacy.conftest import EXPECTED, HERE, Done

pytestmark = [pytest.mark.process, pytest.mark.timeout(600)]

LLM = EXPECTED["fingerprints"]["llm"]
CHAMPION = "models:/llmdiff-adapter@champion"


@pytest.mark.usefixtures("legacy_commands")
@pytest.mark.parametrize("expected", EXPECTED["versions"], ids=lambda each: f"version {each['version']}")
def test_every_version_of_a_store_reads_back(written: Path, expected: dict[str, Any]) -> None:
    opened = EncodingStore.open(written / "store", expected["version"])
    assert contents.store_contents(opened) == expected


def test_a_store_is_whole(written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["store", "verify", str(written / "store"), "--json"])
    assert end.value.code == 0
    assert json.loads(capsys.readouterr().out)["problems"] == []


def test_a_training_epoch_comes_in_the_same_order(written: Path) -> None:
    dataset = EncodingDataset(
        written / "store", DatasetConfig(version=EXPECTED["trained_on"], fingerprint=LLM, batch_size=4, seed=0)
    )
    assert contents.batch_digests(dataset) == EXPECTED["batches"]


def test_a_writer_clears_what_a_dead_one_left_and_adds_to_the_store(store: Path) -> None:
    claim, half_written = store / "writing" / "half-written.lock", store / "shards" / "half-written"
    assert claim.exists()
    assert half_written.exists()
    newest = EXPECTED["versions"][-1]
    opened = EncodingStore.open(store)
    bits = np.arange(2 * contents.HIDDEN, dtype=np.uint16).reshape(2, contents.HIDDEN)
    with ShardWriter(opened, "added", LLM) as writer:
        writer.add_encoding(caption_hash("a new caption"), bits)
    assert not claim.exists()
    assert not half_written.exists()
    assert opened.version > newest["version"]
    np.testing.assert_array_equal(EncodingStore.open(store).encoding(LLM, caption_hash("a new caption")), bits)
    assert contents.store_contents(EncodingStore.open(store, newest["version"])) == newest
    with pytest.raises(SystemExit) as end:
        main(["store", "verify", str(store)])
    assert end.value.code == 0


def test_one_command_brings_its_tables_to_todays_form(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Checksums and statistics in the log, and few files; no row, and no earlier version, is another one."""
    newest = EXPECTED["versions"][-1]
    with pytest.raises(SystemExit) as end:
        main(["store", "optimize", str(store), "--json"])
    assert end.value.code == 0
    tables = {table["table"]: table for table in json.loads(capsys.readouterr().out)["tables"]}
    assert tables["index"]["merged"] == tables["index"]["files"] > 1
    opened = EncodingStore.open(store)
    assert opened.version == newest["version"] + 1
    for table in opened.tables:
        assert [file.crc32c for file in table.newest().entries if file.crc32c is None] == []
        assert len(table.newest().files) <= 1
    assert contents.store_contents(EncodingStore.open(store, newest["version"])) == newest
    assert {**contents.store_contents(opened), "version": newest["version"]} == newest
    with pytest.raises(SystemExit) as end:
        main(["store", "verify", str(store)])
    assert end.value.code == 0


def test_a_job_is_free_once_its_holder_died_and_taken_while_it_lives(store: Path) -> None:
    file = store / "turns" / "retrain.lock"
    with file.open("rb+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # as a process of the earlier version does
        with job_mutex(EncodingStore.open(store).path, "retrain") as mutex:
            assert f"process {json.loads(file.read_text())['pid']} on {socket.gethostname()}" in str(mutex.taken_by)
    with job_mutex(EncodingStore.open(store).path, "retrain") as mutex:
        assert mutex.is_ours


def test_an_adapter_computes_what_it_computed(written: Path) -> None:
    predicted = contents.prediction(LLMAdapter, written / "finished" / "adapter", written / "base")
    np.testing.assert_allclose(predicted, EXPECTED["prediction"], rtol=1e-4, atol=1e-5)


def test_an_adapter_draws_what_it_drew(written: Path) -> None:
    drawn = contents.draw(load_adapter, written / "finished" / "adapter", written / "base", written / "llm")
    assert_same_picture(drawn)


def test_a_picture_that_an_evaluation_drew_is_found(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its name is made of all that decides its pixels, here with every library's version "1"."""
    from llmdiff.evaluation import gallery
    from pipelines.runtime.eval_models import identity

    monkeypatch.setattr(gallery, "version", lambda name: "1")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert contents.drawn_path(gallery, identity(str(written / "base"))) == EXPECTED["drawn"]


def test_a_registered_version_is_loaded_by_its_stored_code_and_draws_the_same(there: Path) -> None:
    import mlflow

    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{there / 'runs' / 'mlflow.db'}")
    try:
        model = mlflow.pyfunc.load_model(CHAMPION)
    finally:
        mlflow.set_tracking_uri(before)
    drawn = model.predict([contents.PROMPT], params={"seed": contents.SEED, **contents.SAMPLING})
    assert drawn[["prompt", "seed"]].values.tolist() == [[contents.PROMPT, contents.SEED]]
    assert_same_picture(np.asarray(Image.open(io.BytesIO(drawn.image[0]))))


def test_a_registered_version_is_fetched(there: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from infra.tracking.registry import fetch_adapter

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{there / 'runs' / 'mlflow.db'}")
    monkeypatch.setenv("LLMDIFF_HOME", str(tmp_path / "runs"))
    folder = fetch_adapter(CHAMPION)
    assert folder.is_relative_to(tmp_path)
    for name in ("adapter.safetensors", "adapter_config.json"):
        assert (folder / name).read_bytes() == (there / "finished" / "adapter" / name).read_bytes()


def test_parameters_of_retraining_are_taken() -> None:
    """`llmdiff shapes --retrain` wrote such parameters, and a user may have added to them."""
    from pipelines.flows.retrain import retrain_flow

    named_anew = {"growing": "readiness", "rule": "policy"}
    taken = retrain_flow.flow.validate_parameters(
        {named_anew.get(name, name): value for name, value in EXPECTED["retrain"].items()}
    )
    given = {**EXPECTED["retrain"]["settings"], "steps": 300}
    assert taken["settings"].model_dump(mode="json", exclude_unset=True) == given
    assert (taken["readiness"].settle, taken["policy"].margin, taken["policy"].metric) == (1.0, 0.02, "colour")


def test_a_killed_run_goes_on_to_the_losses_of_one_that_was_not(written: Path, done: Done) -> None:
    run = Path("runs") / "train" / EXPECTED["run"]
    assert [path.name for path in (done.folder / run).parent.iterdir()] == [EXPECTED["run"]]
    before, after = read_rows(written / run), read_rows(done.folder / run)
    assert 8 < len(before) < len(after) == len(EXPECTED["losses"])
    assert [row["step"] for row in after] == list(range(1, len(after) + 1))
    assert after[:8] == before[:8]  # until the checkpoint
    np.testing.assert_allclose([row["loss"] for row in after], EXPECTED["losses"], rtol=LOSS_TOLERANCE)
    config = json.loads((done.folder / run / "adapter" / "adapter_config.json").read_text())
    assert config["store_version"] == EXPECTED["trained_on"] < EXPECTED["versions"][-1]["version"]


LOSS_TOLERANCE = 1e-5
"""Relative. On the machine that wrote them the losses are the same bits; with other vector instructions (torch's
ATEN_CPU_CAPABILITY=default) they differ by 1e-7; gone on with without the optimiser's moments, by 1e-3."""


def test_a_finished_run_has_nothing_left_to_do(written: Path, done: Done) -> None:
    said = f"finished before, on version {EXPECTED['trained_on']} of the store; --restart begins again"
    assert said in done.printed["finished"]
    assert f"adapter: {Path('finished', 'adapter')} (" in done.printed["finished"]
    assert read_rows(done.folder / "finished") == read_rows(written / "finished")


def test_without_a_server_nothing_is_recorded(done: Done) -> None:
    """Earlier versions started an engine of Prefect's for each command, whose database was there."""
    assert (done.folder / "runs" / "mlflow.db").exists()
    assert not (done.folder / "runs" / "prefect" / "prefect.db").exists()


def test_what_is_in_a_store_is_not_encoded_again(done: Done) -> None:
    assert "rows 26 = known 26 + new 0 + rejected 0" in done.printed["encode"]
    assert "rows 26 = known 22 + new 4 + rejected 0" in done.printed["encode base"]  # which had not seen the third file


def test_a_decision_stays(there: Path, done: Done) -> None:
    from mlflow import MlflowClient

    decided = json.loads(done.printed["promote"])
    expected = EXPECTED["promotions"][-1]
    assert {key: decided[key] for key in expected} == expected
    uri = f"sqlite:///{done.folder / 'runs' / 'mlflow.db'}"
    api = MlflowClient(uri, uri)
    run = api.get_model_version_by_alias("llmdiff-adapter", "candidate").run_id
    assert len(api.get_metric_history(run, "promotion.candidate")) == 1  # nothing was drawn and scored again


def test_lineage_goes_back_to_the_data(done: Done) -> None:
    found = json.loads(done.printed["lineage"])
    assert {key: found[key] for key in EXPECTED["lineage"]} == EXPECTED["lineage"]


def assert_same_picture(drawn: np.ndarray) -> None:
    """Up to the last digits of another processor's arithmetic."""
    expected = np.asarray(Image.open(HERE / "expected.png"))
    assert expected.std() > 10  # there is something to see
    np.testing.assert_allclose(drawn.astype(int), expected.astype(int), atol=2)


def read_rows(run: Path) -> list[dict[str, Any]]:
    """A run's metrics."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
