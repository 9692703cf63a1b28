from __future__ import annotations

import json
from pathlib import Path

import pytest

from infra.registry import adapter_tags, fetch_adapter, register_adapter
from infra.tracking import client, tracked_run

pytestmark = pytest.mark.usefixtures("tracking")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "adapter"
    made.mkdir()
    (made / "adapter.safetensors").write_bytes(b"weights")
    config = {
        "encoder": "llm",
        "encoder_fingerprint": "f00",
        "llm": "",
        "base_model": "sd",
        "store": "s",
        "store_version": 3,
    }
    (made / "adapter_config.json").write_text(json.dumps(config))
    (made / "optimizer.bin").write_bytes(b"not part of it")
    return made


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
    }
    back = fetch_adapter(first.uri)
    assert sorted(path.name for path in back.iterdir()) == ["adapter.safetensors", "adapter_config.json"]
    assert (back / "adapter.safetensors").read_bytes() == b"weights"
    assert fetch_adapter(first.uri) == back
    assert [path.name for path in back.parent.iterdir()] == [back.name]
    assert client().get_model_version("llmdiff-adapter", "1").run_id == run.run_id


def test_the_alias_moves_to_the_newest_and_versions_stay(folder: Path) -> None:
    register_adapter(folder, tags={})
    (folder / "adapter.safetensors").write_bytes(b"better")
    second = register_adapter(folder, tags={})
    assert second.version == 2
    assert (fetch_adapter(second.uri) / "adapter.safetensors").read_bytes() == b"better"
    assert (fetch_adapter("models:/llmdiff-adapter/1") / "adapter.safetensors").read_bytes() == b"weights"


def test_what_is_not_there_is_named(folder: Path, tmp_path: Path) -> None:
    assert fetch_adapter(str(folder)) == folder
    with pytest.raises(FileNotFoundError, match="gone: no such adapter folder"):
        fetch_adapter(str(tmp_path / "gone"))
    with pytest.raises(ValueError, match="models:/llmdiff-adapter@candidate: not in the registry"):
        fetch_adapter("models:/llmdiff-adapter@candidate")
    with pytest.raises(ValueError, match="expected models:/<name>@<alias>"):
        fetch_adapter("models:/llmdiff-adapter")
    (folder / "adapter.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="adapter.safetensors: no such file"):
        register_adapter(folder, tags={})
