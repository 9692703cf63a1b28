"""A run goes on with its own store, wherever that lies by now, and with no other one at the same path."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from llmdiff.training.config import TrainConfig
from llmdiff.training.resolve import check_store, resolve
from storage import EncodingStore, ShardWriter, caption_hash
from tests.storage import synthetic


@pytest.fixture
def store(tmp_path: Path) -> EncodingStore:
    return make_store(tmp_path / "store")


def make_store(path: Path) -> EncodingStore:
    store, llm = synthetic.make_store(path)
    synthetic.encode(store, llm, "a")
    return store


def draft(path: Path, output: Path, **settings: object) -> TrainConfig:
    return TrainConfig(store=str(path), fingerprint="", base="base", output=str(output), steps=1, **settings)


def began(path: Path, output: Path) -> TrainConfig:
    """What the configuration of a run that began is."""
    config = resolve(draft(path, output), "llm")
    config.write(config.path)
    return config


def test_a_run_keeps_the_id_of_its_store(store: EncodingStore, tmp_path: Path) -> None:
    assert began(Path(store.path), tmp_path / "run").store_id == store.id


def test_another_store_at_the_same_path_is_told(store: EncodingStore, tmp_path: Path) -> None:
    """Though it has the version that the run began with, and one that has fewer, too."""
    first = began(tmp_path / "store", tmp_path / "run")
    for make in (make_store, EncodingStore.create):
        shutil.rmtree(tmp_path / "store")
        other = make(tmp_path / "store")
        expected = (
            f"run: the run began on the store {first.store_id} at {tmp_path}/store, found the store {other.id} at "
            f"{tmp_path}/store: restart, or use another output"
        )
        with pytest.raises(ValueError, match=expected):
            resolve(draft(tmp_path / "store", tmp_path / "run"), "llm")
        with pytest.raises(ValueError, match=f"expected the store {first.store_id}, found the store {other.id}"):
            check_store(first, other)


def test_a_base_is_the_same_by_a_relative_name(
    store: EncodingStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base").mkdir()
    began(tmp_path / "store", tmp_path / "run")
    other = draft(Path("store"), Path("run")).model_copy(update={"base": str(tmp_path / "base")})
    assert resolve(other, "llm").base == str(tmp_path / "base")
    with pytest.raises(ValueError, match="the run began with base 'base', found 'other'"):
        resolve(other.model_copy(update={"base": "other"}), "llm")


def test_a_store_that_was_moved_or_copied_is_the_same(store: EncodingStore, tmp_path: Path) -> None:
    first = began(tmp_path / "store", tmp_path / "run")
    with ShardWriter(store, None, first.fingerprint) as writer:
        writer.add_encoding(caption_hash("later"), synthetic.encoding("later"))
    shutil.move(tmp_path / "store", tmp_path / "moved")
    gone_on = resolve(draft(tmp_path / "moved", tmp_path / "run"), "llm")
    assert (gone_on.store, gone_on.store_id) == (str(tmp_path / "moved"), first.store_id)
    assert gone_on.store_version == first.store_version
    check_store(gone_on, EncodingStore.open(tmp_path / "moved"))
    with pytest.raises(ValueError, match="the run began with steps 1, found 2"):
        resolve(draft(tmp_path / "moved", tmp_path / "run").model_copy(update={"steps": 2}), "llm")


def test_a_run_of_before_stores_had_an_id_goes_on(store: EncodingStore, tmp_path: Path) -> None:
    first = began(tmp_path / "store", tmp_path / "run")
    values = json.loads(first.path.read_text())
    del values["store_id"]
    first.path.write_text(json.dumps(values))
    gone_on = resolve(draft(tmp_path / "store", tmp_path / "run"), "llm")
    assert gone_on == first
    shutil.move(tmp_path / "store", tmp_path / "moved")
    with pytest.raises(ValueError, match=r"the run began with store '.*store', found '.*moved'"):
        resolve(draft(tmp_path / "moved", tmp_path / "run"), "llm")
