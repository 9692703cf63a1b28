"""Counts of a version: what the files note, or else its rows, going on from those that were kept of an earlier one."""

from __future__ import annotations

import json
import shutil
import tracemalloc
import zlib
from base64 import b64encode
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from deltalake import DeltaTable

from storage import EncodingStore, ShardWriter, content_hash
from storage.index import shard_counts
from storage.index.row_stream import stream_rows
from storage.index.shard_counts import KEY, MOST_RUNS, ShardCounts, count_shards, note_of, noted
from storage.maintenance.counts import KEPT
from storage.maintenance.gc import drop
from storage.maintenance.rejects import listed_rejects
from storage.maintenance.repair import repair
from storage.maintenance.summary import list_shards, summarise
from storage.maintenance.verify import verify
from storage.schema import INDEX
from storage.writing.optimize import optimize
from tests.storage import synthetic


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many files of the index each counting read."""
    found: list[int] = []

    def note(table: Any, files: Any, *arguments: Any) -> Any:
        found.append(len(files))
        return stream_rows(table, files, *arguments)

    monkeypatch.setattr("storage.maintenance.counts.stream_rows", note)
    return found


@pytest.fixture
def unnoted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the notes, as if an earlier version of the program had written all files."""
    monkeypatch.setattr("storage.index.table_files.noted", lambda metadata: None)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LLMDIFF_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def store(tmp_path: Path) -> EncodingStore:
    store, llm = synthetic.make_store(tmp_path / "store")
    base = store.register_fingerprint(synthetic.BASE)
    for source in ("a", "b"):
        synthetic.encode(store, llm, source, shard=source, base=base)
    return store


def check(store: EncodingStore, cache: Path) -> None:
    """Compare counts with what was kept, and without."""
    found = list_shards(store), summarise(store)
    shutil.rmtree(cache)
    assert (list_shards(store), summarise(store)) == found


def told(store: EncodingStore) -> tuple[Any, ...]:
    opened = EncodingStore.open(store.path)
    found = summarise(opened) | {"version": 0}
    del found["bytes"]["index"]
    return list_shards(opened), found, listed_rejects(opened)


def test_no_row_is_read_whatever_was_done_and_the_counts_are_those_of_the_rows(
    store: EncodingStore, cache: Path, read: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What files note and what whoever took rows out counted, one encoder's encodings being another shard's."""
    (llm, base) = store.fingerprints()
    synthetic.encode(store, llm, "c", base=base)
    changes = {
        "nothing": lambda: None,
        "files merged": lambda: optimize(store),
        "an encoder dropped": lambda: drop(store, fingerprint=base),
        "a shard committed after that": lambda: synthetic.encode(store, llm, "d"),
        "files merged after that": lambda: optimize(store),
        "a source dropped whose encodings others name": lambda: drop(store, source_hash=content_hash(b"a")),
        "a shard repaired": lambda: damage_and_repair(store),
        "another committed": lambda: synthetic.encode(store, llm, "e"),
    }
    for change, apply in changes.items():
        apply()
        read.clear()
        found = told(store)
        assert read == [], change
        with monkeypatch.context() as patch:
            patch.setattr("storage.index.table_files.noted", lambda metadata: None)
            patch.setattr("storage.maintenance.counts.KEPT", "elsewhere")
            assert told(store) == found, change
        assert read
        shutil.rmtree(cache)


def damage_and_repair(store: EncodingStore) -> None:
    (shard, *_) = (shard.name for shard in list_shards(store) if shard.latents)
    files = (path for path in Path(str(store.path), "shards", shard, "latents").rglob("*") if path.is_file())
    max(files, key=lambda path: path.stat().st_size).unlink()
    assert len(repair(store, verify(store)).lost)


def test_a_store_that_keeps_no_counts_or_wrong_ones_is_counted(
    store: EncodingStore, cache: Path, read: list[int]
) -> None:
    (llm, base) = store.fingerprints()
    drop(store, fingerprint=base)
    found = told(store)
    kept = Path(str(store.index.folder), KEPT)
    whole = kept.read_bytes()
    for damage in (whole[:50], b"", zlib.compress(b"[1]"), None):
        read.clear()
        kept.unlink() if damage is None else kept.write_bytes(damage)
        assert told(store) == found
        assert read == [2]
        shutil.rmtree(cache)
    drop(store, source_hash=content_hash(b"a"))
    kept.write_bytes(whole)  # of a version before that
    assert told(store)[1]["sources"] == 1


def test_optimizing_notes_what_an_earlier_version_did_not(store: EncodingStore, cache: Path, read: list[int]) -> None:
    (llm, _) = store.fingerprints()
    earlier = EncodingStore.open(store.path)
    earlier.index.counts_shards = False
    synthetic.encode(earlier, llm, "c")
    before = told(store)
    assert read.pop() == 3
    optimize(store)
    assert (told(store), read) == (before, [])


def test_rows_that_are_scattered_are_not_noted() -> None:
    """Neighbours are one run, and a row with several captions is one row of it."""
    rows = np.array([7, 8, 8, 9, 11])
    (counts,) = count_shards(of_rows(rows), {}).values()
    assert counts == ShardCounts(samples={"f": 5}, sources=["a"], rows={"f": {"s": [7, 3, 11, 1]}})
    (counts,) = count_shards(of_rows(2 * np.arange(MOST_RUNS)), {}).values()
    assert len((counts.rows or {})["f"]["s"]) == 2 * MOST_RUNS
    (counts,) = count_shards(of_rows(2 * np.arange(MOST_RUNS + 1)), {}).values()
    assert counts.rows is None


def of_rows(rows: np.ndarray) -> pa.Table:
    named = {"shard": "one", "fingerprint": "f", "source": "a", "source_hash": "s"}
    columns = {name: [value] * len(rows) for name, value in named.items()} | {"row": rows}
    return pa.table({name: columns.get(name, [None] * len(rows)) for name in INDEX.names}).cast(INDEX)


def test_a_note_that_is_not_one_says_nothing() -> None:
    shards = {"one": ShardCounts(samples={"f": 2}, bytes={"all": 3}, rows=None)}
    note = note_of(shards).encode()
    assert noted({KEY.encode(): note}) == shards
    wrong = [ShardCounts(samples={"f": "2"}), ShardCounts(sources=[1]), ShardCounts(rows={"f": {"s": [1]}})]  # type: ignore
    notes = [note_of({"one": each}).encode() for each in wrong]
    for other in (b"", b"x", note[:-8], note_of({}).encode()[4:], note[:20] + b"AAAA" + note[24:], *notes):
        assert noted({KEY.encode(): other}) is None
    assert noted(None) is noted({b"other": note}) is None


def test_a_note_of_kilobytes_may_not_unpack_to_gigabytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_counts, "LONGEST", 2**20)
    bomb = b64encode(zlib.compress(b'{"shards": {}, "format": 1, "a": "' + b"x" * 2**23 + b'"}'))
    tracemalloc.start()
    assert noted({KEY.encode(): bomb}) is None
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()
    assert noted({KEY.encode(): b64encode(zlib.compress(b"[" * 100_000))}) is None


@pytest.mark.usefixtures("unnoted")
def test_only_files_that_are_new_are_read(store: EncodingStore, cache: Path, read: list[int]) -> None:
    (llm, _) = store.fingerprints()
    assert summarise(store)["samples"] == 36
    assert summarise(EncodingStore.open(store.path)) == summarise(store)
    assert read == [2]
    synthetic.encode(store, llm, "c")  # some of its captions are encoded in a
    check(store, cache)
    assert read == [2, 1, 3]
    assert summarise(EncodingStore.open(store.path, version=1))["samples"] == 18
    drop(store, source_hash=content_hash(b"a"))
    check(store, cache)
    assert summarise(store)["sources"] == 2


@pytest.mark.usefixtures("unnoted")
def test_compaction_brings_nothing_new(store: EncodingStore, cache: Path, read: list[int]) -> None:
    """Delta's own; with commits before and after it since the last counting."""
    (llm, _) = store.fingerprints()
    before = summarise(store)
    synthetic.encode(store, llm, "c")
    DeltaTable(str(store.index.folder)).optimize.compact()
    synthetic.encode(store, llm, "d")
    assert len(store.index.newest().files) == 2
    found = summarise(EncodingStore.open(store.path))
    assert (before["samples"], found["samples"], found["sources"]) == (36, 72, 4)
    check(EncodingStore.open(store.path), cache)
    assert read == [2, 2, 2]


@pytest.mark.usefixtures("unnoted")
def test_a_copy_that_went_another_way_is_counted_by_itself(store: EncodingStore, cache: Path, tmp_path: Path) -> None:
    (llm, _) = store.fingerprints()
    copy = EncodingStore.open(shutil.copytree(store.path, tmp_path / "copy"))
    assert copy.id == store.id
    for each, rows in ((store, range(10)), (copy, range(30))):
        synthetic.encode(each, llm, "c", rows, shard="of-one-name")
        found = summarise(each)["samples"]
        assert found == 36 + len(synthetic.expected_rows("c", rows))


@pytest.mark.usefixtures("unnoted")
@pytest.mark.parametrize("damage", ["[1]", "{}", "cut", "other"])
def test_what_was_kept_and_is_damaged_is_made_anew(store: EncodingStore, cache: Path, damage: str) -> None:
    before = summarise(store)
    (kept,) = (cache / "counts").iterdir()
    data = kept.read_bytes()
    wrong = zlib.compress(json.dumps({**json.loads(zlib.decompress(data)), "sources": ["x"]}).encode())
    kept.write_bytes({"cut": data[:100], "other": wrong}.get(damage) or zlib.compress(damage.encode()))
    assert summarise(EncodingStore.open(store.path)) == before


def test_refused_rows_that_are_samples_or_repeats_by_now_are_not_counted(store: EncodingStore, cache: Path) -> None:
    assert summarise(store)["rejects"] == {"empty_caption": 4}
    (llm, _) = store.fingerprints()
    text = synthetic.caption("a", 6)
    with ShardWriter(store, None, llm) as writer:
        writer.add_encoding(synthetic.caption_hash(text), synthetic.encoding(text))
        writer.add_latent(synthetic.latent_key("a", 6), synthetic.latent("a/6"))
        writer.add_sample(synthetic.sample(llm, "a", 6, text))
    assert summarise(store)["rejects"] == {"empty_caption": 3} == {"empty_caption": len(store.rejects())}
