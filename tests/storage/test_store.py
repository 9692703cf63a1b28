"""What a store promises, whatever it lies on."""

import contextlib
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import zarr
from deltalake import DeltaTable, QueryBuilder
from zarrs import ZarrsCodecPipeline

from storage import EncodingStore, Sample, ShardWriter, caption_hash, content_hash
from storage.locks.base import LockedError
from storage.maintenance.summary import list_shards, summarise
from storage.maintenance.verify import verify
from tests.storage import synthetic


class StoreContract:
    """A backend's test class inherits this and has a fixture `root`: where a store can be made.

    It is one class, however long, so that no backend keeps only some of the promises.
    """

    def test_what_went_in_comes_out(self, root):
        store, llm = synthetic.make_store(root)
        base = store.register_fingerprint(synthetic.BASE)
        assert synthetic.encode(store, llm, "a", base=base) == 20
        store = EncodingStore.open(root)
        assert synthetic.rows_of(store, llm) == synthetic.expected_rows("a")
        for _, row, caption in synthetic.expected_rows("a"):
            np.testing.assert_array_equal(store.encoding(llm, caption_hash(caption)), synthetic.encoding(caption))
            np.testing.assert_array_equal(
                store.encoding(base, caption_hash(caption)), synthetic.encoding(caption, width=8, longest=5)
            )
            assert synthetic.latent_key("a", row) in store.snapshot().latents([synthetic.latent_key("a", row)])
        assert store.rejects()["row"].to_pylist() == [6, 13]
        assert verify(store) == []

    def test_versions_are_snapshots(self, root):
        store, llm = synthetic.make_store(root)
        assert store.version == 0
        synthetic.encode(store, llm, "a")
        pinned = EncodingStore.open(root, version=store.version)
        synthetic.encode(store, llm, "b")
        assert (pinned.version, store.version) == (1, 2)
        assert synthetic.rows_of(pinned, llm) == synthetic.expected_rows("a")
        assert synthetic.rows_of(store, llm) == synthetic.expected_rows("a") + synthetic.expected_rows("b")
        assert pinned.snapshot().encodings(llm, [caption_hash(synthetic.caption("b", 1))]) == {}
        with pytest.raises(ValueError, match="opened at version 1"):
            ShardWriter(pinned, "c")
        with pytest.raises(ValueError, match="expected version 7, found versions 0 to 2"):
            EncodingStore.open(root, version=7)

    def test_a_second_run_encodes_nothing(self, root):
        store, llm = synthetic.make_store(root)
        synthetic.encode(store, llm, "a")
        version, size = store.version, store.size("shards")
        assert synthetic.encode(store, llm, "a") == 0
        assert (store.version, store.size("shards")) == (version, size)
        other = store.register_fingerprint({**synthetic.LLM, "g": [2.0, 2.0]})
        assert synthetic.encode(store, other, "a") == 20, "another encoder knows none of it"

    def test_a_caption_is_encoded_once(self, root):
        store, llm = synthetic.make_store(root)
        synthetic.encode(store, llm, "a")
        synthetic.encode(store, llm, "b")
        shared = caption_hash(synthetic.caption("b", 4))
        assert store.snapshot().encodings(llm, [shared])[shared].shard == store.samples(llm)["shard"][0].as_py()
        info = summarise(store)
        distinct = {caption for _, _, caption in synthetic.rows_of(store, llm)}
        assert info["captions"] == info["fingerprints"][llm]["captions"] == len(distinct) < info["samples"]

    def test_an_exception_leaves_nothing(self, root):
        store, llm = synthetic.make_store(root)
        with contextlib.suppress(KeyError), ShardWriter(store, "broken", llm) as writer:
            writer.add_encoding("x", synthetic.encoding("x"))
            writer.reject(synthetic.reject(llm, "a", 1))
            raise KeyError
        assert (store.version, store.size("shards"), len(store.rejects())) == (0, 0, 0)
        assert verify(store) == []
        synthetic.encode(store, llm, "a", shard="broken")
        assert synthetic.rows_of(store, llm) == synthetic.expected_rows("a")

    def test_a_writer_can_be_given_what_another_committed_meanwhile(self, root):
        store, llm = synthetic.make_store(root)
        with ShardWriter(EncodingStore.open(root), "slow", llm) as slow:
            slow.add_encoding(caption_hash("mine"), synthetic.encoding("mine"))
            slow.add_latent(synthetic.latent_key("a", 1), synthetic.latent("a/1"))
            slow.add_sample(synthetic.sample(llm, "a", 1, "mine"))
            slow.add_sample(synthetic.sample(llm, "a", 100, "mine"))
            slow.reject(synthetic.reject(llm, "a", 6))
            synthetic.encode(store, llm, "a")
            slow.add_latent(synthetic.latent_key("a", 100), synthetic.latent("a/100"))
        assert synthetic.rows_of(store, llm) == [*synthetic.expected_rows("a"), ("a.parquet", 100, "mine")]
        assert store.rejects()["row"].to_pylist() == [6, 13]
        assert verify(store) == []

    def test_all_the_same_to_a_slower_writer_leaves_no_shard(self, root):
        store, llm = synthetic.make_store(root)
        with ShardWriter(store, "slow", llm) as slow:
            slow.add_encoding(caption_hash(synthetic.caption("a", 1)), synthetic.encoding(synthetic.caption("a", 1)))
            slow.add_latent(synthetic.latent_key("a", 1), synthetic.latent("a/1"))
            slow.add_sample(synthetic.sample(llm, "a", 1, synthetic.caption("a", 1)))
            synthetic.encode(EncodingStore.open(root), llm, "a", shard="fast")
        assert [shard.name for shard in list_shards(store)] == ["fast"]
        assert [path.name for path in (store.path / "shards").children()] == ["fast"]
        assert synthetic.rows_of(store, llm) == synthetic.expected_rows("a")

    def test_encodings_of_no_sample(self, root):
        store, llm = synthetic.make_store(root)
        for attempt in range(2):
            with ShardWriter(store, f"null-{attempt}", llm) as writer:
                writer.add_encoding(caption_hash(""), synthetic.encoding(""))
        np.testing.assert_array_equal(store.encoding(llm, caption_hash("")), synthetic.encoding(""))
        assert (store.version, summarise(store)["samples"], summarise(store)["captions"]) == (1, 0, 1)
        assert verify(store) == []

    def test_captions_without_pictures(self, root):
        store, llm = synthetic.make_store(root)
        with ShardWriter(store, "text", llm) as writer:
            writer.add_encoding(caption_hash("x"), synthetic.encoding("x"))
            key = {"fingerprint": llm, "source": "prompts.txt", "source_hash": "0", "row": 0}
            writer.add_sample(Sample(caption="x", caption_hash=caption_hash("x"), **key))
        assert synthetic.rows_of(store, llm) == [("prompts.txt", 0, "x")]
        assert verify(store) == []

    def test_several_captions_of_a_row(self, root):
        store, llm = synthetic.make_store(root)
        with ShardWriter(store, "a", llm) as writer:
            writer.add_latent(synthetic.latent_key("a", 3), synthetic.latent("a/3"))
            for caption in ("one", "two"):
                writer.add_encoding(caption_hash(caption), synthetic.encoding(caption))
                writer.add_sample(synthetic.sample(llm, "a", 3, caption))
        assert synthetic.rows_of(store, llm) == [("a.parquet", 3, "one"), ("a.parquet", 3, "two")]
        assert summarise(store)["latents"] == 1

    def test_bands(self, root):
        store = EncodingStore.create(root)
        llm = store.register_fingerprint({**synthetic.LLM, "bands": 3})
        bands = np.arange(3 * 5 * 4, dtype=np.uint16).reshape(3, 5, 4)  # (band, token, hidden)
        with ShardWriter(store, "a", llm) as writer:
            writer.add_encoding("x", bands.swapaxes(0, 1).reshape(5, 12))
        np.testing.assert_array_equal(store.encoding(llm, "x"), bands)

    def test_many_outer_shards(self, root, monkeypatch):
        monkeypatch.setattr("storage.io.arrays.OUTER_BYTES", 64 * synthetic.HIDDEN * 2 * 3)
        store, llm = synthetic.make_store(root)
        synthetic.encode(store, llm, "a", range(60))
        store = EncodingStore.open(root)
        synthetic.check_encodings(store, llm, [caption for _, _, caption in synthetic.expected_rows("a", range(60))])
        assert summarise(store)["tokens"] > 3 * 3 * 64
        assert verify(store) == []

    def test_threads_share_a_store(self, root):
        store, llm = synthetic.make_store(root)
        threads = [threading.Thread(target=synthetic.encode, args=(store, llm, f"t{i}")) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert synthetic.rows_of(store, llm) == sorted(
            row for i in range(4) for row in synthetic.expected_rows(f"t{i}")
        )
        assert verify(store) == []

    def test_info_counts(self, root):
        store, llm = synthetic.make_store(root)
        empty = summarise(store)
        assert (empty["samples"], empty["bytes_per_caption"], empty["rejects"]) == (0, None, {})
        synthetic.encode(store, llm, "a")
        info = summarise(store)
        tokens = sum(len(synthetic.encoding(caption)) for _, _, caption in synthetic.expected_rows("a"))
        assert (info["samples"], info["latents"], info["sources"], info["shards"]) == (18, 18, 1, 1)
        assert (empty["latent_shapes"], info["latent_shapes"]) == ({}, {"4x8x8": 18})
        assert info["rejects"] == {"empty_caption": 2}
        assert info["fingerprints"][llm] == {"samples": 18, "captions": 18, "tokens": tokens}
        (shard,) = list_shards(store)
        assert (shard.samples, shard.encodings, shard.tokens, shard.latents) == (18, 18, tokens, 18)
        assert shard.bytes > 2 * synthetic.HIDDEN * tokens


class TestLocalStore(StoreContract):
    @pytest.fixture
    def root(self, tmp_path) -> Path:
        return tmp_path / "store"


class TestObjectStore(StoreContract):
    @pytest.fixture
    def root(self, s3_url) -> str:
        return s3_url


def test_open_says_what_is_wrong(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such store"):
        EncodingStore.open(tmp_path / "none")
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"found a folder without store\.json"):
        EncodingStore.open(tmp_path)
    with pytest.raises(ValueError, match=r"found other files there: notes\.txt"):
        EncodingStore.open_or_create(tmp_path)
    with pytest.raises(ValueError, match="expected an encoding store, found a file"):
        EncodingStore.open(tmp_path / "notes.txt")
    for name in ("notes.txt", "notes.txt/below"):
        with pytest.raises(ValueError, match=r"expected a folder for a store, found a file: .*notes\.txt"):
            EncodingStore.open_or_create(tmp_path / name)
    store = EncodingStore.open_or_create(tmp_path / "new" / "store")
    assert EncodingStore.open_or_create(store.path).version == 0
    with pytest.raises(ValueError, match="there is a store already"):
        EncodingStore.create(store.path)
    (store.path / "store.json").write_text('{"format": 2}')
    with pytest.raises(ValueError, match="expected format 1, found 2"):
        EncodingStore.open(store.path)


def test_a_create_that_was_killed_can_be_repeated(tmp_path):
    store, llm = synthetic.make_store(tmp_path / "store")
    (store.path / "store.json").unlink()
    store = EncodingStore.open_or_create(store.path)
    synthetic.encode(store, llm, "a")
    assert synthetic.rows_of(store, llm) == synthetic.expected_rows("a")


def test_the_writer_refuses_what_it_cannot_keep(tmp_path):
    store, llm = synthetic.make_store(tmp_path)
    good = synthetic.encoding("x")

    def attempt(*encodings, name="a", fingerprint=llm, latent=None, sample=None):
        with ShardWriter(store, name, fingerprint) as writer:
            for number, bits in enumerate(encodings):
                writer.add_encoding(str(number), bits)
            if latent is not None:
                writer.add_latent("x", latent)
            if sample is not None:
                writer.add_sample(sample)

    with pytest.raises(ValueError, match=r"expected uint16 .* found float32 \(3, 4\)"):
        attempt(np.zeros((3, 4), np.float32))
    with pytest.raises(ValueError, match=r"found uint16 \(0, 4\)"):
        attempt(np.zeros((0, 4), np.uint16))
    with pytest.raises(ValueError, match="expected 16 columns as before, found 8"):
        attempt(good, synthetic.encoding("x", width=8))
    with pytest.raises(ValueError, match="not registered"):
        attempt(good, fingerprint="0" * 32)
    with pytest.raises(ValueError, match="expected a fingerprint"):
        attempt(good, fingerprint=None)
    with pytest.raises(ValueError, match=r"expected float16 .* found float32"):
        attempt(latent=np.zeros((4, 8, 8), np.float32))
    with pytest.raises(ValueError, match="no encoding of caption"):
        attempt(sample=synthetic.sample(llm, "a", 0, "never encoded"))
    with pytest.raises(ValueError, match="shard id"):
        attempt(name="../outside")
    attempt(good)
    with pytest.raises(ValueError, match="a shard of this name already"):
        attempt(good)
    with ShardWriter(store, "b"), pytest.raises(LockedError, match="another process is writing"):
        attempt(good, name="b")
    assert [shard.name for shard in list_shards(store)] == ["a"]
    assert verify(store) == []


def test_a_latent_of_no_shard_is_refused(tmp_path):
    store, llm = synthetic.make_store(tmp_path)
    writer = ShardWriter(store, "a", llm).__enter__()
    writer.add_encoding(caption_hash("x"), synthetic.encoding("x"))
    writer.add_sample(synthetic.sample(llm, "a", 0, "x"))
    with pytest.raises(ValueError, match="no latent of key"):
        writer.__exit__(None, None, None)
    assert (store.version, store.size("shards")) == (0, 0)


def test_sources_are_known_by_content(tmp_path):
    store, llm = synthetic.make_store(tmp_path)
    synthetic.encode(store, llm, "a")
    assert store.snapshot().known_rows(llm, content_hash(b"a")) == set(range(20))
    assert store.snapshot().known_rows(llm, content_hash(b"a, edited")) == set()


def test_other_tools_read_it(tmp_path):
    """Delta's own query engine and Zarr's own codecs: nothing of ours is needed to get the data out."""
    store, llm = synthetic.make_store(tmp_path)
    synthetic.encode(store, llm, "a")
    index = QueryBuilder().register("samples", DeltaTable(tmp_path / "index"))
    query = "select encoding_shard, first_token, token_count from samples where source = 'a.parquet' and row = 3"
    ((shard, first, count),) = (row.values() for row in pa.table(index.execute(query)).to_pylist())
    array = zarr.open_array(tmp_path / "shards" / shard / "encodings" / llm, mode="r")
    assert not isinstance(array.async_array.codec_pipeline, ZarrsCodecPipeline)
    np.testing.assert_array_equal(array[first : first + count], synthetic.encoding(synthetic.caption("a", 3)))


def test_fingerprints_are_kept_with_their_meaning(tmp_path):
    store, llm = synthetic.make_store(tmp_path)
    assert store.register_fingerprint(dict(reversed(synthetic.LLM.items()))) == llm
    assert store.fingerprints() == {llm: synthetic.LLM}
