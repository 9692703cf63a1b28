"""Numbers and names of an index that lead to no row of any array: a line, and no memory taken for them."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from storage import EncodingStore, caption_hash
from storage.index import lookup
from storage.index.transaction import rewrite
from storage.maintenance.summary import list_shards, summarise
from storage.maintenance.verify import verify
from storage.reading.dataset import DatasetConfig, EncodingDataset
from storage.writing.orphans import rewriting
from tests.storage import synthetic

INDEX: dict[str, tuple[dict[str, Any], str]] = {
    "tokens": ({"token_count": 2**31 - 1}, "rows, found"),
    "no tokens": ({"token_count": 0}, "expected rows of one sample, found"),
    "negative tokens": ({"token_count": -5}, "expected rows of one sample, found"),
    "first token": ({"first_token": 2**62}, "expected 4611686018427387"),
    "negative first token": ({"first_token": -(2**62)}, "expected rows of one sample, found"),
    "latent": ({"latent_index": 2**62}, "expected 4611686018427387"),
    "shape": ({"latent_shape": "4x8x1125899906842624"}, "expected a Zarr array, found none"),
    "shape's name": ({"latent_shape": "../../secret"}, "expected the name of an array, found 'latents/../../secret'"),
    "shard": ({"encoding_shard": "../../other/shards/a"}, "expected the name of a shard, found '../../other/shards/a'"),
    "absolute shard": ({"latent_shard": "/etc"}, "expected the name of a shard, found '/etc'"),
}


def set_everywhere(store: EncodingStore, values: dict[str, Any]) -> None:
    """Give each row of the index other values."""

    def change(table: pa.Table) -> pa.Table:
        for name, value in values.items():
            column = pa.array([value] * len(table), table.schema.field(name).type)
            table = table.set_column(table.schema.get_field_index(name), name, column)
        return table

    store.index.counts_shards = False  # whoever writes such an index notes nothing
    with rewriting(store, "changed"):
        rewrite(store.index, "changed", change)


@pytest.mark.parametrize("what", INDEX)
def test_a_hostile_index_ends_in_a_line(tmp_path: Path, what: str) -> None:
    values, line = INDEX[what]
    store, llm = synthetic.make_store(tmp_path / "store")
    synthetic.encode(store, llm, "a")
    set_everywhere(store, values)
    tracemalloc.start()
    with pytest.raises(ValueError, match=line) as caught:
        next(EncodingDataset(store.path, DatasetConfig(fingerprint=llm, batch_size=4)).epoch(0))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "\n" not in str(caught.value)
    assert peak < 50 * 10**6
    if "encoding_shard" in values or "latent_shard" in values:
        for look in (verify, list_shards):
            with pytest.raises(ValueError, match="expected the name of a shard"):
                look(store)
    else:
        assert verify(store)


@pytest.mark.parametrize("shape", [[2**50, synthetic.HIDDEN], [2**62, synthetic.HIDDEN], [1000, 2**50]], ids=str)
def test_an_array_may_say_that_it_has_any_shape(tmp_path: Path, shape: list[int]) -> None:
    store, llm = synthetic.make_store(tmp_path / "store")
    synthetic.encode(store, llm, "a")
    (file,) = (tmp_path / "store" / "shards").glob(f"*/encodings/{llm}/zarr.json")
    file.write_text(json.dumps({**json.loads(file.read_text()), "shape": shape}))
    set_everywhere(store, {"first_token": min(2**40, shape[0] // 2)})
    tracemalloc.start()
    with pytest.raises(ValueError, match="damaged|one sample") as caught:
        next(EncodingDataset(store.path, DatasetConfig(fingerprint=llm, batch_size=4)).epoch(0))
    assert tracemalloc.get_traced_memory()[1] < 50 * 10**6
    tracemalloc.stop()
    assert "\n" not in str(caught.value)


LAYOUTS: dict[str, tuple[int, int | None, list[dict[str, Any]] | None]] = {
    "an outer shard of terabytes": (2**36, None, None),
    "no rows in a chunk": (0, None, None),
    "chunks of terabytes": (2**36, 2**36, None),
    "chunks of a byte, by the billion": (2**31, 1, None),
    "packed rows": (
        64,
        64,
        [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "gzip", "configuration": {"level": 1}}],
    ),
}
"""Rows of an outer shard, rows of a chunk, codecs of a chunk."""


@pytest.mark.parametrize("what", LAYOUTS)
def test_an_array_that_no_writer_writes_is_refused_before_a_codec_believes_it(tmp_path: Path, what: str) -> None:
    """The Rust codecs would abort the process over memory that is not there."""
    store, llm = synthetic.make_store(tmp_path / "store")
    synthetic.encode(store, llm, "a")
    (file,) = (tmp_path / "store" / "shards").glob(f"*/encodings/{llm}/zarr.json")
    about = json.loads(file.read_text())
    outer, chunk, codecs = LAYOUTS[what]
    about["chunk_grid"]["configuration"]["chunk_shape"][0] = outer
    sharding = about["codecs"][0]["configuration"]
    sharding["chunk_shape"][0] = sharding["chunk_shape"][0] if chunk is None else chunk
    sharding["codecs"] = codecs or sharding["codecs"]
    file.write_text(json.dumps(about))
    for read in (
        lambda: next(EncodingDataset(store.path, DatasetConfig(fingerprint=llm, batch_size=4)).epoch(0)),
        lambda: store.encoding(llm, caption_hash(synthetic.caption("a", 1))),
    ):
        with pytest.raises(ValueError, match=r"expected a Zarr array, found none \(expected (chunks|rows) "):
            read()


def test_reading_one_encoding_believes_no_number(tmp_path: Path) -> None:
    store, llm = synthetic.make_store(tmp_path / "store")
    synthetic.encode(store, llm, "a")
    set_everywhere(store, {"token_count": 2**31 - 1})
    with pytest.raises(ValueError, match="expected 2147483"):
        store.encoding(llm, caption_hash(synthetic.caption("a", 1)))


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"format": ' * 100_000, '{"format": 1e999}', "[]", "\0"], ids=lambda text: text[:20]
)
def test_a_stores_description_is_read_or_refused_in_a_line(tmp_path: Path, text: str) -> None:
    store, llm = synthetic.make_store(tmp_path / "store")
    synthetic.encode(store, llm, "a")
    (tmp_path / "store" / "store.json").write_text(text)
    with pytest.raises(ValueError, match=r"store\.json: expected ") as caught:
        EncodingStore.open(tmp_path / "store")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"kind": ', "[]", "\0"], ids=lambda text: text[:20])
def test_a_description_of_encodings_that_is_none_is_named(tmp_path: Path, text: str) -> None:
    store, llm = synthetic.make_store(tmp_path / "store")
    file = tmp_path / "store" / "fingerprints" / f"{llm}.json"
    file.write_text(text)
    with pytest.raises(ValueError, match=rf"^{file}: expected (JSON|a JSON object)") as caught:
        store.fingerprints()
    assert "\n" not in str(caught.value)
    assert [problem.path for problem in verify(store)] == [f"fingerprints/{llm}.json"]


def test_a_manifest_that_is_deep_is_a_problem_of_its_shard(tmp_path: Path) -> None:
    store, llm = synthetic.make_store(tmp_path / "store")
    synthetic.encode(store, llm, "a")
    (manifest,) = (tmp_path / "store" / "shards").glob("*/manifest.json")
    manifest.write_text("[" * 100_000)
    assert any("manifest.json" in problem.path for problem in verify(store))


LINES = {
    "no checksums": '{"commitInfo": {"checksums": null}}',
    "checksums of another kind": '{"commitInfo": {"checksums": "[1]"}}',
    "no file": '{"add": null}',
    "a file without a name": '{"add": {"size": 1, "modificationTime": 1}}',
    "a name that is a number": '{"add": {"path": 5, "size": 1, "modificationTime": 1}}',
    "an endless size": '{"add": {"path": "a.parquet", "size": 1e999, "modificationTime": 1}}',
    "a commit without a name": '{"txn": {}}',
    "a list": '{"remove": []}',
    "brackets": "[" * 100_000,
}


@pytest.mark.parametrize("line", LINES.values(), ids=LINES)
def test_a_log_made_by_hand_ends_in_a_line(tmp_path: Path, line: str) -> None:
    store, llm = synthetic.make_store(tmp_path / "store")
    synthetic.encode(store, llm, "a")
    entry = tmp_path / "store" / "index" / "_delta_log" / f"{1:020d}.json"
    entry.write_text(f"{entry.read_text()}\n{line}")
    with pytest.raises(ValueError, match=r"01\.json: ") as caught:
        EncodingStore.open(tmp_path / "store").snapshot()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["../../escaped", "/escaped", "long" * 1000])
def test_no_id_leads_out_of_the_cache(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMDIFF_CACHE", str(tmp_path / "cache" / "folder"))
    monkeypatch.setattr(lookup, "KEY_FILE_ROWS", 0)
    monkeypatch.setattr("storage.index.table_files.noted", lambda metadata: None)  # so that counts are kept
    store, llm = synthetic.make_store(tmp_path / "store")
    synthetic.encode(store, llm, "a")
    for file in (tmp_path / "store" / "store.json", tmp_path / "store" / "index" / "_delta_log" / f"{0:020d}.json"):
        assert store.id in file.read_text()
        file.write_text(file.read_text().replace(store.id, name))
    opened = EncodingStore.open(tmp_path / "store")
    assert opened.id == opened.index.id == name
    assert summarise(opened)["samples"] == 18
    opened.snapshot().prepare()
    assert len(opened.snapshot().encodings(llm, [caption_hash(synthetic.caption("a", 1))])) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"cache", "store"}
    assert {path.name for path in (tmp_path / "cache").iterdir()} == {"folder"}
    assert {"counts", "index"} <= {path.name for path in (tmp_path / "cache" / "folder").iterdir()}
