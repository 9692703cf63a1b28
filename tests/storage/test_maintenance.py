import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors import safe_open

from storage import EncodingStore, caption_hash, content_hash
from storage.maintenance.data_sets import DataSet, note
from storage.maintenance.export import export
from storage.maintenance.gc import collect, drop
from storage.maintenance.summary import summarise
from storage.maintenance.verify import verify
from storage.reading.dataset import DatasetConfig, EncodingDataset
from tests.storage import synthetic


@pytest.fixture
def store(tmp_path) -> EncodingStore:
    store, llm = synthetic.make_store(tmp_path / "store")
    synthetic.encode(store, llm, "a")
    synthetic.encode(store, llm, "b")
    return store


def test_all_bytes_of_a_store_are_told(store):
    """All bytes but the descriptions of shards and store, and what writers hold while they are at work."""
    (llm,) = store.fingerprints()
    note(store, DataSet(data="/photos", fingerprint=llm, sources={"0" * 64: "a.parquet"}))
    beside = {"store.json", "zarr.json", "manifest.json"}
    sizes = store.path.file_sizes()
    counted = [
        size for name, size in sizes.items() if name.split("/")[-1] not in beside and not name.startswith("writing/")
    ]
    of_arrays = sum(size for name, size in sizes.items() if name.count("/") > 2 and name.endswith("zarr.json"))
    assert sum(summarise(store)["bytes"].values()) == sum(counted) + of_arrays


def test_nothing_goes_while_every_version_is_kept(store):
    (llm,) = store.fingerprints()
    drop(store, fingerprint=llm)
    assert collect(store).paths == ()
    assert synthetic.rows_of(store, llm) == []
    old = EncodingStore.open(store.path, version=2)
    assert synthetic.rows_of(old, llm) == synthetic.expected_rows("a") + synthetic.expected_rows("b")
    assert verify(old) == verify(store) == []


def test_gc_removes_what_no_kept_version_names(store):
    (llm,) = store.fingerprints()
    version = drop(store, fingerprint=llm)
    other = store.register_fingerprint({**synthetic.LLM, "g": [2.0, 2.0]})
    synthetic.encode(store, other, "a")
    size = store.size("shards")
    planned = collect(store, keep=[], dry_run=True)
    assert store.size("shards") == size
    collected = collect(store, keep=[])
    assert collected == planned
    assert collected.kept_versions == (version + 1,)
    assert store.size("shards") <= size - sum(
        len(synthetic.encoding(text)) * 32 for _, _, text in synthetic.expected_rows("a")
    )
    assert synthetic.rows_of(store, other) == synthetic.expected_rows("a")
    assert verify(store) == []
    with pytest.raises(ValueError, match="version 2 is not kept any more"):
        EncodingStore.open(store.path, version=2)


def test_gc_keeps_the_versions_it_is_told(store):
    (llm,) = store.fingerprints()
    drop(store, fingerprint=llm)
    collect(store, keep=[1])
    assert synthetic.rows_of(EncodingStore.open(store.path, version=1), llm) == synthetic.expected_rows("a")
    assert EncodingDataset(store.path, DatasetConfig(version=1, fingerprint=llm, batch_size=4)).samples_per_epoch == 18
    with pytest.raises(ValueError, match="expected version 9"):
        collect(store, keep=[9])


def test_shards_shared_between_sources_stay(store):
    """b's rows use encodings of captions that a had first."""
    (llm,) = store.fingerprints()
    drop(store, source_hash=content_hash(b"a"))
    collect(store, keep=[])
    assert synthetic.rows_of(store, llm) == synthetic.expected_rows("b")
    assert verify(store) == []
    synthetic.check_encodings(store, llm, [caption for _, _, caption in synthetic.expected_rows("b")])
    assert synthetic.encode(store, llm, "a") == 20, "rejects are dropped with their source"


def test_an_edited_source_takes_the_place_of_the_old(store):
    (llm,) = store.fingerprints()
    synthetic.encode(store, llm, "a, edited")
    drop(store, fingerprint=llm, source_hash=content_hash(b"a"))
    assert synthetic.rows_of(store, llm) == sorted(synthetic.expected_rows("a, edited") + synthetic.expected_rows("b"))


def test_gc_removes_orphans(store):
    orphans = {"shards/of-nobody", "index/of-nobody.parquet", "rejects/of-nobody.parquet"}
    for name in orphans:
        (store.path / name).mkdir() if name.startswith("shards") else (store.path / name).write_bytes(b"x")
    assert {problem.path for problem in verify(store)} == orphans
    assert set(collect(store).paths) == orphans
    assert verify(store) == []


def test_drop_needs_to_be_told_what(store):
    with pytest.raises(ValueError, match="expected a fingerprint, a source_hash or both"):
        drop(store)


@pytest.mark.parametrize("bands", [1, 2])
def test_export_as_safetensors(tmp_path, bands):
    store = EncodingStore.create(tmp_path / "store")
    llm = store.register_fingerprint({**synthetic.LLM, "bands": bands})
    synthetic.encode(store, llm, "a")
    paths = export(store, tmp_path / "out", llm, samples_a_file=7)
    assert [path.name for path in paths] == [f"samples-0000{i}.safetensors" for i in range(3)]
    rows = []
    for path in paths:
        with safe_open(path, "pt") as file:
            assert json.loads(file.metadata()["encoder"])["bands"] == bands
            for number, sample in enumerate(json.loads(file.metadata()["samples"])):
                encoding = file.get_tensor(f"{number}.encoding")
                assert encoding.dtype == torch.bfloat16
                np.testing.assert_array_equal(
                    encoding.view(torch.uint16).numpy(), store.encoding(llm, caption_hash(sample["caption"]))
                )
                latent = file.get_tensor(f"{number}.latent").numpy()
                np.testing.assert_array_equal(latent, synthetic.latent(f"a/{sample['row']}"))
                rows.append((sample["source"], sample["row"], sample["caption"]))
    assert rows == synthetic.expected_rows("a")


def test_export_as_parquet(store, tmp_path):
    (llm,) = store.fingerprints()
    (path,) = export(store, tmp_path / "out", llm, format="parquet")
    for row in pq.read_table(path).to_pylist():
        encoding = np.array(row["encoding"], np.float32).reshape(row["encoding_shape"])
        bits = (encoding.view(np.uint32) >> 16).astype(np.uint16)
        np.testing.assert_array_equal(bits, synthetic.encoding(row["caption"]))
        latent = np.array(row["latent"], np.float16).reshape(row["latent_shape"])
        np.testing.assert_array_equal(
            latent, synthetic.latent(f"{row['source'].removesuffix('.parquet')}/{row['row']}")
        )


def test_export_refuses(store, tmp_path):
    (llm,) = store.fingerprints()
    with pytest.raises(ValueError, match="expected one of safetensors, parquet, found 'csv'"):
        export(store, tmp_path / "out", llm, format="csv")
    with pytest.raises(ValueError, match="no samples of fingerprint 0"):
        export(store, tmp_path / "out", "0")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(ValueError, match="expected a new or empty folder"):
        export(store, tmp_path / "out", llm)
