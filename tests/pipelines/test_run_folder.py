"""The folder of a training run that names none: one for its settings on its store."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from infra.environment import home
from llmdiff.training.config import TrainConfig
from pipelines.runtime.train_run import run_folder, run_name
from storage import EncodingStore


@pytest.fixture
def store(tmp_path: Path) -> EncodingStore:
    return EncodingStore.create(tmp_path / "store")


def draft(path: Path | str, **settings: object) -> TrainConfig:
    return TrainConfig(**{"store": str(path), "fingerprint": "", "base": "b", "output": "", "steps": 1, **settings})


def begin(path: Path | str, store: EncodingStore) -> Path:
    """Begin a run, as far as its configuration."""
    folder = run_folder(draft(path), "llm")
    draft(path, output=str(folder), store_id=store.id, store_version=0).write(folder / "config.json")
    return folder


def test_a_store_that_was_moved_keeps_its_runs(store: EncodingStore, tmp_path: Path) -> None:
    folder = begin(tmp_path / "store", store)
    assert folder.name.startswith("store-llm-")
    shutil.move(tmp_path / "store", tmp_path / "moved")
    assert run_folder(draft(tmp_path / "moved"), "llm") == folder
    assert run_folder(draft(tmp_path / "moved", steps=2), "llm") != folder
    assert run_folder(draft(tmp_path / "moved"), "base") != folder


def test_another_store_at_the_same_path_has_runs_of_its_own(
    store: EncodingStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Made anew; or of another project, with the same relative path and the same folder of runs."""
    monkeypatch.chdir(tmp_path)
    folder = begin("store", store)
    shutil.rmtree(tmp_path / "store")
    EncodingStore.create("store")
    assert run_folder(draft("store"), "llm") != folder
    EncodingStore.create(tmp_path / "project" / "store")
    monkeypatch.chdir(tmp_path / "project")
    assert run_folder(draft("store"), "llm") != folder


def test_a_run_of_before_stores_had_an_id_is_found(store: EncodingStore, tmp_path: Path) -> None:
    folder = home() / "train" / run_name(draft(tmp_path / "store"), "llm", str(tmp_path / "store"))
    folder.mkdir(parents=True)
    values = draft(tmp_path / "store", output=str(folder), store_version=0).model_dump(mode="json")
    del values["store_id"]
    (folder / "config.json").write_text(json.dumps(values))
    assert run_folder(draft(tmp_path / "store"), "llm") == folder


def test_settings_that_came_later_leave_the_name_of_a_run_that_leaves_them_alone(store: EncodingStore) -> None:
    """The names are those that earlier versions gave."""
    assert run_name(draft("s"), "llm", "id") == "s-llm-5be10453"
    assert (
        run_name(draft("s", torch_compile=True, channels_last=True), "llm", "id") == "s-llm-5be10453"
    )  # move it by rounding
    assert run_name(draft("s", lr_scheduler="linear"), "llm", "id") != "s-llm-5be10453"
    assert run_name(draft("s", optimizer="adamw_8bit", zero_stage=0), "llm", "id") != "s-llm-5be10453"


def test_a_run_of_before_a_setting_does_not_go_on_with_another(store: EncodingStore, tmp_path: Path) -> None:
    values = draft("s", output=str(tmp_path)).model_dump(mode="json")
    assert "lr_scheduler" not in values
    (tmp_path / "config.json").write_text(json.dumps(values))
    draft("s", output=str(tmp_path)).check_same(tmp_path / "config.json")
    with pytest.raises(ValueError, match="the run began with lr_scheduler 'cosine', found 'linear'"):
        draft("s", output=str(tmp_path), lr_scheduler="linear").check_same(tmp_path / "config.json")


def test_a_store_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such store"):
        run_folder(draft(tmp_path / "none"), "llm")
