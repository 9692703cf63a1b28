from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest
from safetensors.numpy import save

from infra.tracking.coverage import recorded_files, unseen_files
from infra.tracking.lineage import DataFile, data_files, files_in
from infra.tracking.registry import (
    MODEL,
    adapter_tags,
    fetch_adapter,
    find_champion,
    find_version,
    register_adapter,
    rollback,
    set_champion,
)
from infra.tracking.run import client, tracked_run
from llmdiff.model_files.manifest import write_manifest
from pipelines.reports.lineage import chain
from storage import EncodingStore
from storage.maintenance.left_rows import LEFT, drop_rows
from tests.damage import flip
from tests.infra.tiny_adapter import make_store

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("tracking")]  # git says which version of the code it is

NAMES = ("adapter.safetensors", "adapter_config.json")
WEIGHTS, BETTER = (save({"x": np.full(4, value, np.float32)}) for value in (1, 2))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter.safetensors").write_bytes(WEIGHTS)
    config = {
        "encoder": "llm",
        "encoder_fingerprint": "f00",
        "llm": "",
        "base_model": "sd",
        "store": "s",
        "store_version": 3,
    }
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    (adapter / "optimizer.bin").write_bytes(b"not part of it")
    return adapter


def test_an_adapter_becomes_a_version_with_its_lineage_and_comes_back(folder: Path) -> None:
    with tracked_run("train", {}, {}) as run:
        pass
    first = register_adapter(folder, run_id=run.run_id, tags={"llm": "phi"})
    assert (first.name, first.version, first.alias) == ("llmdiff-adapter", 1, "candidate")
    tags = adapter_tags(first.uri)
    assert tags.pop("code_commit")
    assert tags == {
        "encoder": "llm",
        "encoder_fingerprint": "f00",
        "base_model": "sd",
        "store": "s",
        "store_version": "3",
        "llm": "phi",
        "data_files": "not read: s: no such store",
    }
    back = fetch_adapter(first.uri)
    assert sorted(path.name for path in back.iterdir()) == [*NAMES, "manifest.json"]
    assert (back / "adapter.safetensors").read_bytes() == WEIGHTS
    assert fetch_adapter(first.uri) == back
    assert [path.name for path in back.parent.iterdir()] == [back.name]
    assert client().get_model_version("llmdiff-adapter", "1").run_id == run.run_id


def test_the_alias_moves_to_the_newest_and_versions_stay(folder: Path) -> None:
    register_adapter(folder, tags={})
    (folder / "adapter.safetensors").write_bytes(BETTER)
    second = register_adapter(folder, tags={})
    assert second.version == 2
    assert (fetch_adapter(second.uri) / "adapter.safetensors").read_bytes() == BETTER
    assert (fetch_adapter("models:/llmdiff-adapter/1") / "adapter.safetensors").read_bytes() == WEIGHTS


def test_what_is_not_there_is_named(folder: Path, tmp_path: Path) -> None:
    assert fetch_adapter(str(folder)) == folder
    with pytest.raises(FileNotFoundError, match="gone: no such adapter folder"):
        fetch_adapter(str(tmp_path / "gone"))
    with pytest.raises(ValueError, match="adapter@candidate: not in the registry sqlite:///.*mlflow.db: "):
        fetch_adapter("models:/llmdiff-adapter@candidate")
    with pytest.raises(ValueError, match="expected models:/<name>@<alias>"):
        fetch_adapter("models:/llmdiff-adapter")
    (folder / "adapter.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="adapter.safetensors: not found"):
        register_adapter(folder, tags={})


def test_a_version_of_before_they_were_models_is_fetched(folder: Path) -> None:
    with tracked_run("train", {}, {}) as run:
        for name in NAMES:
            client().log_artifact(run.run_id, str(folder / name), "adapter")
    client().create_registered_model(MODEL)
    client().create_model_version(MODEL, f"{run.artifacts}/adapter", run.run_id)
    assert (fetch_adapter(f"models:/{MODEL}/1") / "adapter.safetensors").read_bytes() == WEIGHTS


def test_a_damaged_adapter_becomes_no_version(folder: Path) -> None:
    write_manifest(folder, NAMES)
    flip(folder / "adapter.safetensors")
    with pytest.raises(ValueError, match=r"adapter\.safetensors: damaged: expected CRC-32"):
        register_adapter(folder, tags={})
    assert client().search_registered_models() == []


def test_a_damaged_copy_is_fetched_again_and_a_damaged_version_is_refused(folder: Path) -> None:
    version = register_adapter(folder, tags={})
    copy = fetch_adapter(version.uri)
    flip(copy / "adapter.safetensors")
    assert fetch_adapter(version.uri) == copy
    assert (copy / "adapter.safetensors").read_bytes() == WEIGHTS
    source = client().get_model_version_download_uri(version.name, str(version.version)).removeprefix("file://")
    for there in (copy, Path(source, "artifacts", "adapter")):
        flip(there / "adapter.safetensors")
    expected = rf"^{version.uri}: what the registry holds is damaged: .*adapter\.safetensors: damaged: expected CRC-32"
    with pytest.raises(ValueError, match=expected):
        fetch_adapter(version.uri)


def test_two_versions_of_one_run_keep_their_own_files(folder: Path) -> None:
    with tracked_run("train", {}, {}) as run:
        pass
    register_adapter(folder, run_id=run.run_id, tags={})
    (folder / "adapter.safetensors").write_bytes(BETTER)
    register_adapter(folder, run_id=run.run_id, tags={})
    contents = [(fetch_adapter(f"models:/{MODEL}/{i}") / "adapter.safetensors").read_bytes() for i in (1, 2)]
    assert contents == [WEIGHTS, BETTER]


def test_the_data_files_that_training_read_are_an_input_of_the_run(folder: Path, tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    fingerprint, version = make_store(tmp_path / "store", {"b.parquet": 5, "a.parquet": 4})
    make_store(tmp_path / "store", {"later.parquet": 2})
    change(folder, store=store, store_version=version, encoder_fingerprint=fingerprint)
    registered = register_adapter(folder, tags={})
    tags = adapter_tags(registered.uri)
    assert (tags["data_files"], tags["data_rows"], tags["store_version"]) == ("2", "7", str(version))
    (found,) = client().get_run(registered.run_id).inputs.dataset_inputs
    assert (found.dataset.name, json.loads(found.dataset.source)) == ("store", {"uri": store})
    assert {tag.key: tag.value for tag in found.tags} == {
        "mlflow.data.context": "training",
        "store_version": str(version),
        "encoder_fingerprint": fingerprint,
    }
    expected = [
        DataFile("a.parquet", "hash of a.parquet", 3),
        DataFile("b.parquet", "hash of b.parquet", 4),
    ]
    assert files_in([found], tags["data_digest"]) == data_files(store, version, fingerprint) == expected


def test_a_file_is_unseen_where_it_is_new_or_has_more_rows(folder: Path, tmp_path: Path) -> None:
    """One that lost rows, as `store drop` takes them out, has nothing to train on that the version has not seen."""
    path = tmp_path / "store"
    fingerprint, version = make_store(path, {"a.parquet": 4, "b.parquet": 5})
    change(folder, store=str(path), store_version=version, encoder_fingerprint=fingerprint)
    register_adapter(folder, tags={})

    def unseen() -> list[str]:
        newest = EncodingStore.open(path).version
        return [file.source for file in unseen_files(MODEL, str(path), newest, fingerprint)]

    store = EncodingStore.open(path)
    rows = store.snapshot().read(LEFT.names).cast(LEFT)
    drop_rows(store, rows.filter(pc.equal(rows["caption"], "b.parquet 1")))
    assert (store.version > version, unseen()) == (True, [])
    make_store(path, {"later.parquet": 2})
    assert unseen() == ["later.parquet"]
    make_store(path, {"a.parquet": 6})
    assert unseen() == ["a.parquet", "later.parquet"]


def test_another_store_at_the_same_path_is_not_taken_for_the_one_trained_on(folder: Path, tmp_path: Path) -> None:
    fingerprint, version = make_store(tmp_path / "store", {"a.parquet": 4})
    store_id = EncodingStore.open(tmp_path / "store").id
    about = {"store": str(tmp_path / "store"), "store_version": version, "encoder_fingerprint": fingerprint}
    change(folder, **about, training={"store_id": store_id})
    registered = register_adapter(folder, tags={})
    assert adapter_tags(registered.uri)["store_id"] == store_id
    assert chain(registered.uri)["store"] == {"path": about["store"], "id": store_id, "version": str(version)}
    (found,) = client().get_run(registered.run_id).inputs.dataset_inputs
    assert {tag.key: tag.value for tag in found.tags}["store_id"] == store_id
    shutil.rmtree(tmp_path / "store")
    make_store(tmp_path / "store", {"b.parquet": 4})
    other = EncodingStore.open(tmp_path / "store").id
    tags = adapter_tags(register_adapter(folder, tags={}).uri)
    why = f"{about['store']}: expected the store {store_id}, found the store {other}"
    assert tags["data_files"] == f"not read: {why}"
    lost = find_version(registered.uri)
    lost.tags["data_digest"] = "of no input"  # as of a version whose files were too many to be listed
    with pytest.raises(ValueError, match=why):
        recorded_files(lost)


def test_the_models_behind_it_are_known_by_their_content(folder: Path, tmp_path: Path) -> None:
    base = tmp_path / "sd"
    (base / "unet").mkdir(parents=True)
    (base / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"one")
    described = {"llm": {"class": "Phi", "content": "c0ffee"}}
    change(folder, base_model=str(base), encoder_description=described, llm="microsoft/phi", llm_revision="abc")
    first = adapter_tags(register_adapter(folder, tags={}).uri)
    (base / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"two")
    second = adapter_tags(register_adapter(folder, tags={}).uri)
    assert (first["encoder_content"], first["llm_revision"]) == ("c0ffee", "abc")
    assert first["base_content"] != second["base_content"]


def test_a_base_from_the_hub_is_known_by_its_commit(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = tmp_path / "hub" / "models--some--sd"
    (cached / "snapshots" / "c0ffee" / "unet").mkdir(parents=True)
    (cached / "snapshots" / "c0ffee" / "unet" / "config.json").write_text("{}")
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("c0ffee")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    change(folder, base_model="some/sd")
    assert adapter_tags(register_adapter(folder, tags={}).uri)["base_revision"] == "c0ffee"


def test_the_champion_goes_back_step_by_step(folder: Path) -> None:
    with pytest.raises(ValueError, match="adapter@champion: not in the registry sqlite:///.*mlflow.db: "):
        rollback()
    for _ in range(3):
        set_champion(find_version(register_adapter(folder, tags={}).uri))
        set_champion(find_version(f"models:/{MODEL}@champion"))  # again: changes nothing
    assert rollback() == (3, 2)
    assert "rolled_back" in adapter_tags(f"models:/{MODEL}/3")
    assert rollback() == (2, 1)
    with pytest.raises(ValueError, match="version 1 is the first champion"):
        rollback()
    assert champion() == "1"


def test_a_deleted_champion_is_not_gone_back_to(folder: Path) -> None:
    for _ in range(2):
        set_champion(find_version(register_adapter(folder, tags={}).uri))
    client().delete_model_version(MODEL, "1")
    with pytest.raises(ValueError, match=f"models:/{MODEL}/1: not in the registry sqlite:///.*mlflow.db: "):
        rollback()
    assert champion() == "2"


def champion() -> str | None:
    found = find_champion()
    return None if found is None else str(found.version)


def change(folder: Path, **facts: object) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **facts}))
