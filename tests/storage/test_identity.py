"""A store has an id of its own, made once, which tells it from another one at the same path."""

from __future__ import annotations

import json
import shutil
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from storage import EncodingStore, ShardWriter, caption_hash
from storage.maintenance.summary import summarise
from tests.storage import synthetic


class IdentityContract:
    """A backend's test class inherits this and has a fixture `root`: where a store can be made."""

    def test_it_is_made_once(self, root: Path | str) -> None:
        store = EncodingStore.create(root)
        assert uuid.UUID(store.id).version == 4
        assert json.loads((store.path / "store.json").read_bytes()) == {"format": 1, "id": store.id}
        assert EncodingStore.open_or_create(root).id == EncodingStore.open(root, version=0).id == store.id
        assert summarise(store)["id"] == store.id

    def test_a_store_made_anew_has_another(self, root: Path | str) -> None:
        first = EncodingStore.create(root)
        before = first.id
        first.path.remove()
        assert EncodingStore.create(root).id != before

    def test_writers_that_bring_an_old_store_up_to_date_agree(self, root: Path | str) -> None:
        store, llm = synthetic.make_store(root)
        make_old(store)
        read_only = EncodingStore.open(root).id
        stores = [EncodingStore.open(root) for _ in range(4)]
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda each: synthetic.encode(stores[each], llm, f"source {each}"), range(4)))
        assert {read_only, *(each.id for each in stores), EncodingStore.open(root).id} == {store.id}
        assert json.loads((store.path / "store.json").read_bytes())["id"] == store.id


class TestLocalStore(IdentityContract):
    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        return tmp_path / "store"


class TestObjectStore(IdentityContract):
    @pytest.fixture
    def root(self, s3_url: str) -> str:
        return s3_url


def test_a_copy_is_the_same_store(tmp_path: Path) -> None:
    store = EncodingStore.create(tmp_path / "store")
    shutil.copytree(tmp_path / "store", tmp_path / "copy")
    assert EncodingStore.open(tmp_path / "copy").id == store.id
    make_old(store)
    shutil.copytree(tmp_path / "store", tmp_path / "old copy")
    assert EncodingStore.open(tmp_path / "old copy").id == store.id


def test_an_old_store_is_only_read_until_it_is_written(tmp_path: Path) -> None:
    store, llm = synthetic.make_store(tmp_path / "store")
    make_old(store)
    before = (store.path / "store.json").read_bytes()
    assert EncodingStore.open(store.path).id == store.id
    assert (store.path / "store.json").read_bytes() == before
    with ShardWriter(EncodingStore.open(store.path), None, llm) as writer:
        writer.add_encoding(caption_hash("x"), synthetic.encoding("x"))
    assert json.loads((store.path / "store.json").read_bytes()) == {"format": 1, "id": store.id}


def make_old(store: EncodingStore) -> None:
    """Leave a store as it was made before stores had an id."""
    (store.path / "store.json").write(b'{"format": 1}')
