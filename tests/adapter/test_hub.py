"""Adapters by name on the hub: fetched once, of one commit, two files and no more; what is not there is named."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub
import pytest

from llmdiff.adapter.config import CONFIG, WEIGHTS
from llmdiff.adapter.files import check_adapter
from llmdiff.adapter.hub import adapter_folder, hub_parts
from tests.adapter import tiny
from tests.damage import flip
from tests.hub_models import REPO, ModelHub, sha


@pytest.fixture
def filled(hub: ModelHub) -> ModelHub:
    """Two commits, with more than an adapter's files."""
    hub.commits = [{CONFIG: b"{}", WEIGHTS: bytes([i]), "evil.py": b"1", "x.bin": b"2"} for i in range(2)]
    return hub


def test_a_name_gives_the_two_files_of_one_commit_once(filled: ModelHub, monkeypatch: pytest.MonkeyPatch) -> None:
    newest = adapter_folder(REPO)
    assert sorted(path.name for path in newest.iterdir()) == [WEIGHTS, CONFIG]
    assert (newest / WEIGHTS).read_bytes() == b"\1"
    assert (adapter_folder(f"hf:{REPO}@{sha(0)}") / WEIGHTS).read_bytes() == b"\0"
    assert adapter_folder(f"hf:{REPO}") == newest
    assert sorted(filled.asked) == [WEIGHTS, WEIGHTS, CONFIG]  # both commits have the same configuration
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert adapter_folder(REPO) == newest


def test_an_adapter_of_the_hub_is_as_it_was_shared_or_refused(hub: ModelHub, tmp_path: Path) -> None:
    saved = tiny.adapter(tiny.unet()).save(tmp_path / "adapter")
    whole = {path.name: path.read_bytes() for path in saved.iterdir()}
    flip(saved / WEIGHTS)
    hub.commits = [whole, {**whole, WEIGHTS: (saved / WEIGHTS).read_bytes()}]
    check_adapter(adapter_folder(f"{REPO}@{sha(0)}"))
    with pytest.raises(ValueError, match=rf"{WEIGHTS}: damaged: expected CRC-32"):
        check_adapter(adapter_folder(REPO))


def test_what_the_hub_has_not_is_named(filled: ModelHub) -> None:
    for name in ("hf:ada/other", f"{REPO}@v2"):
        with pytest.raises(FileNotFoundError, match=f"{name}: no such adapter folder; .*from the hub: "):
            adapter_folder(name)
    filled.commits = [{CONFIG: b"{}"}]
    with pytest.raises(FileNotFoundError, match="from the hub: .*404"):
        adapter_folder(REPO)


def test_folders_are_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "adapter").mkdir(parents=True)
    for folder in ("runs/adapter", "./gone", "/gone/adapter", "a/b/c", "gone"):
        assert adapter_folder(folder) == Path(folder)
    assert hub_parts("runs/other") == ("runs/other", None)
    with pytest.raises(ValueError, match="hf:x: expected hf:owner/name"):
        adapter_folder("hf:x")
