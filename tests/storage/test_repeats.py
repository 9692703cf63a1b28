"""A picture with its caption is one sample of an encoder, whatever rows of the data hold it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from storage import EncodingStore, ShardWriter, caption_hash, content_hash
from storage.maintenance.gc import collect, drop
from storage.maintenance.summary import summarise
from storage.maintenance.verify import verify
from tests.storage import synthetic
from tests.storage.repeated import add, elsewhere, repeat_of, write


class RepeatContract:
    """A backend's test class inherits this and has a fixture `root`: where a store can be made."""

    def test_of_two_writers_at_once_the_second_notes_repeats(self, root: Path | str) -> None:
        store, llm = synthetic.make_store(root)
        first = [synthetic.sample(llm, "a", row, f"caption {row}") for row in range(3)]
        theirs = [elsewhere(sample, "b", row) for row, sample in enumerate(reversed(first))]
        more = synthetic.sample(llm, "b", 3, "caption of b")
        with ShardWriter(EncodingStore.open(root), "slow", llm) as slow:
            add(slow, *theirs, more)
            assert write(store, *first) == 0
        assert slow.left_out == 3
        assert [row[:2] for row in synthetic.rows_of(store, llm)] == [
            *(("a.parquet", row) for row in range(3)),
            ("b.parquet", 3),
        ]
        snapshot = store.snapshot()
        assert snapshot.known_rows(llm, content_hash(b"b")) == {0, 1, 2, 3}
        assert snapshot.repeat_rows(llm, content_hash(b"b")) == {0, 1, 2}
        assert summarise(store)["repeats"] == 3
        assert verify(store) == []

    def test_a_store_of_an_earlier_version_gets_its_table_with_the_next_writer(self, root: Path | str) -> None:
        store, llm = synthetic.make_store(root)
        (store.path / "repeats").remove()
        (store.path / "store.json").write(b'{"format": 1}')
        old = EncodingStore.open(root)
        first = synthetic.sample(llm, "a", 0, "a caption")
        assert old.snapshot().known_rows(llm, first.source_hash) == set()
        assert len(old.snapshot().repeats()) == len(old.rejects()) == 0
        assert verify(old) == []
        assert write(old, first) == 0
        assert write(old, elsewhere(first, "b", 4)) == 1
        assert old.snapshot().known_rows(llm, content_hash(b"b")) == {4}
        assert verify(EncodingStore.open(root)) == []


class TestLocalStore(RepeatContract):
    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        return tmp_path / "store"


class TestObjectStore(RepeatContract):
    @pytest.fixture
    def root(self, s3_url: str) -> str:
        return s3_url


def test_a_shard_holds_a_picture_with_its_caption_once(tmp_path: Path) -> None:
    store, llm = synthetic.make_store(tmp_path / "store")
    first = synthetic.sample(llm, "a", 0, "a caption")
    other_caption = replace(first, row=2, caption="another", caption_hash=caption_hash("another"))
    other_picture = replace(synthetic.sample(llm, "a", 3, "a caption"))
    assert write(store, first, replace(first, row=1), other_caption, other_picture) == 1
    assert [row for _, row, _ in synthetic.rows_of(store, llm)] == [0, 2, 3]
    assert store.snapshot().known_rows(llm, first.source_hash) == {0, 1, 2, 3}


def test_encoders_know_nothing_of_one_another(tmp_path: Path) -> None:
    store, llm = synthetic.make_store(tmp_path / "store")
    other = store.register_fingerprint({**synthetic.LLM, "g": [2.0, 2.0]})
    sample = synthetic.sample(llm, "a", 0, "a caption")
    assert write(store, sample, replace(sample, fingerprint=other, row=1)) == 0
    assert len(store.samples()) == 2


def test_a_repeat_whose_sample_is_gone_is_not_known(tmp_path: Path) -> None:
    """Such a row is looked at again, and becomes the sample then."""
    store, llm = synthetic.make_store(tmp_path / "store")
    first = synthetic.sample(llm, "a", 0, "a caption")
    second = elsewhere(first, "b", 7)
    write(store, first)
    write(store, repeats=(repeat_of(second),))
    assert store.snapshot().known_rows(llm, second.source_hash) == {7}
    drop(store, fingerprint=llm, source_hash=first.source_hash)
    assert store.snapshot().known_rows(llm, second.source_hash) == set()
    assert write(store, second) == 0
    assert synthetic.rows_of(store, llm) == [("b.parquet", 7, "a caption")]
    assert verify(store) == []


def test_a_refused_row_that_turns_out_to_be_a_repeat_is_refused_no_more(tmp_path: Path) -> None:
    store, llm = synthetic.make_store(tmp_path / "store")
    first = synthetic.sample(llm, "a", 0, "a caption")
    write(store, first)
    with ShardWriter(store, None, llm) as writer:
        writer.reject(synthetic.reject(llm, "b", 1))
    assert len(store.rejects()) == 1
    write(store, repeats=(repeat_of(elsewhere(first, "b", 1)),))
    assert len(store.rejects()) == 0


def test_upkeep_knows_the_files_of_repeats(tmp_path: Path) -> None:
    """A killed writer's file goes, a committed one stays, and dropping a source drops its repeats."""
    store, llm = synthetic.make_store(tmp_path / "store")
    first = synthetic.sample(llm, "a", 0, "a caption")
    write(store, first)
    write(store, repeats=(repeat_of(elsewhere(first, "b", 1)),), shard="kept")
    (store.path / "repeats" / "lost.parquet").write(b"cut off")
    assert [problem.path for problem in verify(store)] == ["repeats/lost.parquet"]
    assert collect(store).paths == ("repeats/lost.parquet",)
    assert verify(store) == []
    assert [path.name for path in store.repeat_table.parquet_files()] == ["kept.parquet"]
    drop(store, source_hash=content_hash(b"b"))
    assert len(store.snapshot().repeats()) == 0
