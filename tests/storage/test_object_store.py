"""Stores in an object store: several writers, killed ones, damage, reading; a real server and real processes."""

import json
import os
import signal
from multiprocessing import get_context

import numpy as np
import obstore
import pytest

from storage import EncodingStore, ShardWriter, caption_hash, content_hash
from storage.index.delta import DataFile
from storage.index.table import Table
from storage.index.table_files import FETCHED_AT_ONCE
from storage.io.objects import ObjectPath
from storage.io.paths import store_path
from storage.locks.base import LockedError
from storage.maintenance.export import export
from storage.maintenance.gc import collect, drop
from storage.maintenance.repair import repair
from storage.maintenance.summary import summarise
from storage.maintenance.verify import verify
from storage.reading.dataset import DatasetConfig, EncodingDataset
from storage.schema import INDEX
from storage.writing.optimize import optimize
from tests.storage import synthetic, writer_process

CONTEXT = get_context("spawn")  # a fork server may have been started without the object store's address


@pytest.fixture
def store(s3_url) -> EncodingStore:
    store, llm = synthetic.make_store(s3_url)
    synthetic.encode(store, llm, "a")
    return store


def start(function, *arguments):
    process = CONTEXT.Process(target=function, args=arguments, daemon=True)
    process.start()
    return process


def test_processes_write_at_once(s3_url):
    processes = [start(writer_process.create_and_encode, s3_url, source) for source in ("a", "b", "b")]
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    store = EncodingStore.open(s3_url)
    (llm,) = store.fingerprints()
    assert synthetic.rows_of(store, llm) == synthetic.expected_rows("a") + synthetic.expected_rows("b")
    assert verify(store) == []


@pytest.mark.parametrize("moment", ["before anything is uploaded", "between data and commit"])
def test_a_killed_writer(store, s3_url, moment, monkeypatch):
    (llm,) = store.fingerprints()
    die = writer_process.die_while_writing if moment.startswith("before") else writer_process.die_before_commit
    process = start(die, s3_url, llm, "x")
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert (store.version, verify(store)) == (1, [])
    with pytest.raises(LockedError, match="a writer is at work"):
        collect(store)
    synthetic.encode(store, llm, "b")
    assert synthetic.rows_of(store, llm) == synthetic.expected_rows("a") + synthetic.expected_rows("b")
    shards = len((store.path / "shards").children())
    monkeypatch.setattr("storage.locks.lease.STALE_AFTER", 0.0)
    assert len(collect(store).paths) == shards - 2 == moment.startswith("between")
    assert (store.locks.held(), verify(store)) == ([], [])


def test_who_writes_and_who_removes_keep_out_of_each_others_way(store, monkeypatch):
    (llm,) = store.fingerprints()
    with ShardWriter(store, "mine", llm) as writer:
        writer.add_encoding("x", synthetic.encoding("x"))
        with pytest.raises(LockedError, match="mine.lock: a writer is at work"):
            collect(store)
    monkeypatch.setattr("storage.locks.lease.WAIT", 0.0)
    with store.locks.removing():
        with pytest.raises(LockedError, match="somebody removes files"), ShardWriter(store, "other", llm):
            pass
        with pytest.raises(LockedError, match="somebody else removes files"):
            collect(store)
    assert store.locks.held() == []
    assert collect(store).paths == ()


def test_a_writer_at_work_renews_its_lease(store, monkeypatch):
    (llm,) = store.fingerprints()
    monkeypatch.setattr("storage.locks.lease.RENEW_AFTER", 0.0)
    with ShardWriter(store, "mine", llm) as writer:
        lock = store.path / "writing" / "mine.lock"
        before = json.loads(lock.read_bytes())
        writer.add_encoding("x", synthetic.encoding("x"))
        after = json.loads(lock.read_bytes())
    assert after["since"] > before["since"]
    assert after["pid"] == os.getpid()


def test_killed_before_the_commit_of_merged_files(store, s3_url, monkeypatch):
    (llm,) = store.fingerprints()
    synthetic.encode(store, llm, "b")
    expected = synthetic.expected_rows("a") + synthetic.expected_rows("b")
    process = start(writer_process.die_before_merging, s3_url)
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert (store.version, len(store.index.parquet_files()), verify(store)) == (2, 3, [])
    assert synthetic.rows_of(store, llm) == expected
    monkeypatch.setattr("storage.locks.lease.STALE_AFTER", 0.0)
    assert len(collect(store).paths) == 1
    optimize(store)
    assert (store.version, len(store.index.newest().files)) == (3, 1)
    assert synthetic.rows_of(store, llm) == synthetic.rows_of(EncodingStore.open(s3_url, version=2), llm) == expected
    assert verify(store) == []


def test_damage_is_found_and_mended(store):
    (llm,) = store.fingerprints()
    synthetic.encode(store, llm, "b")
    chunks = chunks_of(store)
    data = bytearray(chunks[0].read_bytes())
    data[len(data) // 3] ^= 1
    chunks[0].write(bytes(data))
    obstore.delete(chunks[1].client, chunks[1].key)
    problems = verify(store)
    assert {problem.kind for problem in problems} == {"flipped", "missing"}
    assert str(chunks[0]).endswith(problems[0].path)
    repaired = repair(store, problems)
    assert len(repaired.lost) > 0
    for source in ("a", "b"):
        synthetic.encode(store, llm, source)
    assert synthetic.rows_of(store, llm) == synthetic.expected_rows("a") + synthetic.expected_rows("b")
    collect(store, keep=[])
    assert verify(store) == []


def test_the_same_batches_as_from_a_disk(store, s3_url, tmp_path):
    (llm,) = store.fingerprints()
    local, _ = synthetic.make_store(tmp_path / "store")
    synthetic.encode(local, llm, "a")
    config = DatasetConfig(fingerprint=llm, batch_size=4)
    ours, theirs = (list(EncodingDataset(path, config).epoch(0)) for path in (s3_url, tmp_path / "store"))
    assert len(ours) == len(theirs) > 2
    for one, other in zip(ours, theirs, strict=True):
        assert one.rows == other.rows
        assert one.encodings.equal(other.encodings)
        assert one.latents.equal(other.latents)


def test_export(store, tmp_path):
    (llm,) = store.fingerprints()
    (path,) = export(store, tmp_path / "out", llm)
    assert path.stat().st_size > 0


def test_counts_come_from_the_ends_of_files(store, monkeypatch):
    """Fetched in two pieces where a footer is longer than was thought; after rows were taken out some are kept."""
    monkeypatch.setattr("storage.io.objects.FOOTER", 16)
    with monkeypatch.context() as patch:
        patch.setattr("storage.maintenance.counts.stream_rows", None)  # reads rows
        found = summarise(store)
    assert (found["samples"], found["captions"], found["rejects"]) == (18, 18, {"empty_caption": 2})
    (llm,) = store.fingerprints()
    synthetic.encode(store, llm, "b")
    drop(store, source_hash=content_hash(b"a"))
    monkeypatch.setattr("storage.maintenance.counts.stream_rows", None)
    found = summarise(store)
    assert (found["samples"], found["captions"], found["sources"]) == (18, 18, 1)


def test_of_large_files_few_are_fetched_at_once():
    """A file of a bucket is in memory whole while it is read."""
    table = Table(ObjectPath("bucket", "store/index"), INDEX)
    for size, at_once in ((1000, 8), (FETCHED_AT_ONCE // 2, 2), (FETCHED_AT_ONCE * 2, 1)):
        table.note([DataFile(f"{i}", 1, size, 0) for i in range(20)])
        assert table.read_at_once([f"{i}" for i in range(20)]) == at_once


def test_a_lost_chunk_is_an_error_and_never_a_batch(store, s3_url):
    (llm,) = store.fingerprints()
    for chunk in chunks_of(store):
        obstore.delete(chunk.client, chunk.key)
    with pytest.raises(ValueError, match="expected checksum"):
        list(EncodingDataset(s3_url, DatasetConfig(fingerprint=llm, batch_size=4)).epoch(0))


def test_what_can_not_be_opened(s3_url):
    with pytest.raises(FileNotFoundError, match="no such store"):
        EncodingStore.open(s3_url)
    (store_path(s3_url) / "notes.txt").write(b"mine")
    with pytest.raises(ValueError, match=r"found a folder without store\.json"):
        EncodingStore.open(s3_url)
    with pytest.raises(ValueError, match=r"found other files there: notes\.txt"):
        EncodingStore.open_or_create(s3_url)
    for url in ("gs://bucket/store", "s3://", "http://host/store"):
        with pytest.raises(ValueError, match="expected a folder or s3://bucket/prefix"):
            EncodingStore.open(url)
    with pytest.raises(ValueError, match="found credentials in it") as refused:
        EncodingStore.open("s3://key:open-sesame@bucket/store")
    assert "open-sesame" not in str(refused.value)
    with pytest.raises(OSError, match="s3://no-such-bucket"):
        EncodingStore.create("s3://no-such-bucket/store")


def test_the_server_is_away(store, s3_url, monkeypatch):
    """An object store that does not answer is no damage: nothing of it may be taken for lost."""
    (llm,) = store.fingerprints()
    np.testing.assert_array_equal(
        store.encoding(llm, caption_hash(synthetic.caption("a", 1))),
        synthetic.encoding(synthetic.caption("a", 1)),
    )
    away = obstore.store.S3Store(
        store_path(s3_url).bucket,
        endpoint="http://127.0.0.1:9",
        client_options={"allow_http": True},
        retry_config={"max_retries": 0},
    )
    monkeypatch.setattr(ObjectPath, "client", away)
    with pytest.raises(OSError, match=s3_url):
        store.encoding(llm, caption_hash(synthetic.caption("a", 1)))
    with pytest.raises(OSError, match=s3_url):
        EncodingStore.open(s3_url)


def chunks_of(store: EncodingStore) -> list[ObjectPath]:
    """The files of the arrays: of encodings first, then of latents."""
    names = sorted(name for name in (store.path / "shards").file_sizes() if "/c/" in name)
    return [store.path / "shards" / name for name in names]
