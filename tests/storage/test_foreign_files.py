"""Nothing is removed that links or planted locks lead to: only what is the store's own."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path

import pytest

from storage import EncodingStore
from storage.maintenance.gc import collect, drop
from storage.maintenance.verify import verify
from tests.storage import synthetic


@pytest.fixture
def store(tmp_path: Path) -> EncodingStore:
    store, llm = synthetic.make_store(tmp_path / "store")
    synthetic.encode(store, llm, "a", shard="a")
    return store


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A folder of somebody's files."""
    folder = tmp_path / "mine"
    (folder / "holiday").mkdir(parents=True)
    (folder / "holiday" / "beach.png").write_bytes(b"x")
    (folder / "table.parquet").write_bytes(b"x")
    (folder / "table.new").write_bytes(b"x")
    return folder


def plant(store: EncodingStore, name: str) -> Path:
    """The lock of a writer of this machine that has died."""
    path = Path(str(store.path), "writing", f"{name}.lock")
    path.write_text(json.dumps({"host": socket.gethostname(), "pid": 1, "since": 0}))
    return path


def link(store: EncodingStore, name: str, foreign: Path) -> None:
    folder = Path(str(store.path), name)
    shutil.copytree(folder, foreign, dirs_exist_ok=True)
    shutil.rmtree(folder)
    folder.symlink_to(foreign)


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["shards", "rejects", "index", "repeats", "writing"])
def test_a_folder_that_is_a_link_loses_nothing(store: EncodingStore, foreign: Path, name: str) -> None:
    (llm,) = store.fingerprints()
    link(store, name, foreign)
    for planted in ("holiday", "table", "of-nobody"):
        plant(store, planted)
    before = files(foreign)
    with pytest.raises(ValueError, match=f"{name}: expected a folder inside the store, found a link to .*mine"):
        collect(EncodingStore.open(store.path), keep=[])
    synthetic.encode(EncodingStore.open(store.path), llm, "b")  # each writer looks for what others left
    drop(EncodingStore.open(store.path), fingerprint=llm)
    assert before <= files(foreign)
    assert synthetic.encode(EncodingStore.open(store.path), llm, "b") == 20


def test_a_store_behind_a_link_is_cleared_as_ever(store: EncodingStore, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(store.path)
    (store.path / "shards" / "left").mkdir()
    plant(store, "left")
    assert collect(EncodingStore.open(tmp_path / "link")).paths == ("shards/left",)
    assert not (store.path / "shards" / "left").exists()


@pytest.mark.parametrize("name", [".", "..", "", "-x", "a/..", "x" * 140])
def test_locks_of_other_names_are_none(store: EncodingStore, name: str) -> None:
    (llm,) = store.fingerprints()
    if "/" in name:
        (store.path / "writing" / "a").mkdir()
    planted = plant(store, name)
    before = synthetic.rows_of(store, llm)
    assert collect(store, keep=[]).paths == ()
    synthetic.encode(store, llm, "b")
    assert planted.exists()
    assert set(before) < set(synthetic.rows_of(store, llm))
    assert verify(store) == []


def test_only_what_looks_like_a_shard_is_removed_as_one(
    store: EncodingStore, foreign: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (llm,) = store.fingerprints()
    shards = store.path / "shards"
    shutil.copytree(foreign / "holiday", shards / "holiday")
    (shards / "notes").write_text("mine")
    (shards / "elsewhere").symlink_to(foreign / "holiday")
    (shards / "a" / "notes.txt").write_text("mine")
    for name in ("holiday", "notes", "elsewhere"):
        plant(store, name)
    drop(store, fingerprint=llm)
    collected = collect(store, keep=[])
    assert collected.left_alone == ("shards/a",)
    assert not any(path.startswith("shards/") for path in collected.paths)
    assert (shards / "a" / "notes.txt").read_text() == (shards / "notes").read_text() == "mine"
    assert (shards / "holiday" / "beach.png").exists()
    assert (foreign / "holiday" / "beach.png").exists()
    assert collect(store, keep=[]).left_alone == tuple(
        f"shards/{name}" for name in ("a", "elsewhere", "holiday", "notes")
    )
