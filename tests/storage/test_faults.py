"""Real processes, real signals: whatever happens to a writer, a shard is visible whole or not at all."""

import json
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage import EncodingStore, ShardWriter
from storage.maintenance.gc import collect
from storage.maintenance.repair import repair
from storage.maintenance.summary import list_shards, summarise
from storage.maintenance.verify import verify
from storage.writing.optimize import optimize
from tests.small_disk import mounted
from tests.storage import synthetic, writer_process

pytestmark = pytest.mark.process


@pytest.fixture
def store(tmp_path) -> EncodingStore:
    store, llm = synthetic.make_store(tmp_path / "store")
    synthetic.encode(store, llm, "a")
    return store


def check_and_finish(store: EncodingStore, source: str) -> None:
    """Check that after a fault all is well and a source is there whole or not at all; a rerun brings every row once."""
    (llm,) = store.fingerprints()
    store = EncodingStore.open(store.path)
    assert verify(store) == []
    rows = synthetic.rows_of(store, llm)
    assert rows in (
        synthetic.expected_rows("a"),
        synthetic.expected_rows("a") + synthetic.expected_rows(source),
    )
    synthetic.encode(store, llm, source)
    assert synthetic.rows_of(store, llm) == synthetic.expected_rows("a") + synthetic.expected_rows(source)
    collect(store)
    assert store.rejects()["row"].to_pylist() == [6, 13, 6, 13]
    assert verify(store) == []
    assert not list((store.path / "writing").glob("*.lock"))
    assert {path.name for path in (store.path / "shards").iterdir()} == {shard.name for shard in list_shards(store)}


def test_killed_before_any_file_operation(store, tmp_path):
    (llm,) = store.fingerprints()
    committed, number, code = 0, 0, -signal.SIGKILL
    while code == -signal.SIGKILL:
        copy = EncodingStore.open(shutil.copytree(store.path, tmp_path / f"killed-{number}"))
        code = writer_process.run(writer_process.die_at_file_operation, copy.path, llm, "b", number)
        assert code in (-signal.SIGKILL, 0)
        committed += copy.version == 2
        check_and_finish(copy, "b")
        shutil.rmtree(copy.path)
        number += 9
    assert number > 50
    assert committed >= 1


def test_killed_at_any_time(store, tmp_path):
    """The moments include those where Python touches no file, and the Rust libraries do."""
    (llm,) = store.fingerprints()
    for number in range(6):
        copy = EncodingStore.open(shutil.copytree(store.path, tmp_path / f"killed-{number}"))
        process = writer_process.start(writer_process.encode, copy.path, llm, "b")
        while not list((copy.path / "writing").glob("*.lock")) and process.is_alive():
            time.sleep(0.001)
        time.sleep(0.02 * number)
        process.kill()
        process.join()
        check_and_finish(copy, "b")


def test_gc_leaves_a_living_writer_alone_and_clears_after_a_dead_one(store):
    (llm,) = store.fingerprints()
    writer_process.run(writer_process.die_while_writing, store.path, llm, "lost")
    left = [path.name for path in (store.path / "shards").iterdir()]
    assert len(left) == 2
    with ShardWriter(store, "living", llm) as writer:
        assert len(list((store.path / "shards").iterdir())) == 1, "a writer clears up after the dead"
        writer.add_encoding("x", synthetic.encoding("x"))
        writer_process.flush(writer)
        assert collect(EncodingStore.open(store.path)).paths == ()
    assert verify(store) == []
    assert len(list_shards(store)) == 2


def test_gc_after_a_kill(store):
    (llm,) = store.fingerprints()
    writer_process.run(writer_process.die_while_writing, store.path, llm, "lost")
    assert verify(store) == []
    assert len(summarise(store)["being_written"]) == 1
    planned = collect(store, dry_run=True)
    assert len(summarise(store)["being_written"]) == 1
    assert collect(store) == planned
    assert planned.bytes > 0
    assert summarise(store)["being_written"] == []
    check_and_finish(store, "b")


@pytest.mark.parametrize("limit", [0, 100, 400, 1500, 4000, 8000])
def test_a_file_can_grow_no_more(store, limit):
    (llm,) = store.fingerprints()
    assert writer_process.run(writer_process.encode_with_file_limit, store.path, llm, "b", limit) == 7
    assert store.version == 1
    assert {path.name for path in (store.path / "shards").iterdir()} == {shard.name for shard in list_shards(store)}
    check_and_finish(store, "b")


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    with mounted(tmp_path / "disk", "1m") as folder:
        yield folder


def test_full_disk(small_disk):
    store, llm = synthetic.make_store(small_disk / "store")
    synthetic.encode(store, llm, "a")
    for rows in (600, 1000, 2000):
        assert writer_process.run(writer_process.encode_on_full_disk, store.path, llm, "b", rows) == 7
        assert store.version == 1
        assert verify(EncodingStore.open(store.path)) == []
    check_and_finish(store, "b")


@pytest.mark.skipif(os.getuid() != 0, reason="needs to become another user")
def test_read_only_folder():
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        store, llm = synthetic.make_store(Path(folder, "store"))
        synthetic.encode(store, llm, "a")
        check_read_only(store)


def check_read_only(store: EncodingStore) -> None:
    (llm,) = store.fingerprints()
    assert writer_process.run(writer_process.encode_as_nobody, store.path, llm, "b") == 7
    assert store.version == 1
    check_and_finish(store, "b")


def test_power_lost_after_the_commit(store, tmp_path):
    """Each new file was synced after it was last written to, and its folder after it was made there."""
    (llm,) = store.fingerprints()
    before = set(store.path.rglob("*"))
    notes = tmp_path / "notes"
    assert writer_process.run(writer_process.encode_noting_syncs, store.path, llm, "b", notes) == 0
    synced = {(int(inode), state) for inode, state in json.loads(notes.read_text()).items()}
    for path in sorted(set(store.path.rglob("*")) - before):
        if path.parent.name != "writing":
            inode, folder = path.stat(), path.parent.stat()
            assert (inode.st_ino, inode.st_mtime_ns) in synced, f"{path} was not on the disk"
            assert (folder.st_ino, folder.st_mtime_ns) in synced, f"the name {path} was not on the disk"
    check_and_finish(store, "b")


def test_killed_while_repairing(store, tmp_path):
    """The index is as before or repaired, and a second attempt ends well."""
    (llm,) = store.fingerprints()
    chunk = next(path for path in store.path.rglob("encodings/*/c/0/0"))
    chunk.write_bytes(chunk.read_bytes()[:-1])
    number, code = 0, -signal.SIGKILL
    while code == -signal.SIGKILL:
        copy = EncodingStore.open(shutil.copytree(store.path, tmp_path / f"killed-{number}"))
        code = writer_process.run(writer_process.die_while_repairing, copy.path, number)
        assert {problem.kind for problem in verify(copy)} in (set(), {"truncated"})
        repair(copy, verify(copy))
        synthetic.encode(copy, llm, "a")
        collect(copy)
        assert verify(copy) == []
        assert synthetic.rows_of(copy, llm) == synthetic.expected_rows("a")
        shutil.rmtree(copy.path)
        number += 11
    assert code == 0


def test_killed_while_optimizing(store, tmp_path):
    """The files are as before or merged, no row is gone or there twice, and a second attempt ends well."""
    (llm,) = store.fingerprints()
    synthetic.encode(store, llm, "b")
    merged, number, code = set(), 0, -signal.SIGKILL
    while code == -signal.SIGKILL:
        copy = EncodingStore.open(shutil.copytree(store.path, tmp_path / f"killed-{number}"))
        code = writer_process.run(writer_process.die_while_optimizing, copy.path, number)
        assert code in (-signal.SIGKILL, 0)
        merged.add(len(copy.index.newest().files))
        assert synthetic.rows_of(copy, llm) == synthetic.expected_rows("a") + synthetic.expected_rows("b")
        check_and_finish(copy, "b")
        optimize(copy)
        assert len(copy.index.newest().files) == 1
        check_and_finish(copy, "b")
        shutil.rmtree(copy.path)
        number += 13
    assert merged == {1, 2}


def test_full_disk_while_optimizing(small_disk):
    store, llm = synthetic.make_store(small_disk / "store")
    synthetic.encode(store, llm, "a", range(10))
    synthetic.encode(store, llm, "a")
    filled = small_disk / "filled"
    assert writer_process.run(writer_process.optimize_on_full_disk, store.path, filled) == 7
    filled.unlink()
    assert store.version == 2
    check_and_finish(store, "b")


def test_writers_at_once_with_whoever_optimizes(store):
    (llm,) = store.fingerprints()
    processes = [
        writer_process.start(writer_process.encode_and_optimize, store.path, llm, *sources)
        for sources in ("bcd", "efg")
    ]
    pinned = EncodingStore.open(store.path, version=1)
    while any(process.is_alive() for process in processes):
        assert synthetic.rows_of(pinned, llm) == synthetic.expected_rows("a")
        assert collect(store).paths == ()
    assert [process.exitcode for process in processes] == [0, 0]
    assert synthetic.rows_of(store, llm) == [row for source in "abcdefg" for row in synthetic.expected_rows(source)]
    assert len(store.index.newest().files) < 7
    assert verify(store) == []


def test_many_writers_at_once(store):
    """Four processes; two of them take on the same sources."""
    (llm,) = store.fingerprints()
    sources = [("b", "c", "d"), ("d", "c", "b"), ("e", "f"), ("g", "h")]
    processes = [writer_process.start(writer_process.encode, store.path, llm, *names) for names in sources]
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * 4
    assert synthetic.rows_of(store, llm) == [row for source in "abcdefgh" for row in synthetic.expected_rows(source)]
    assert len(store.rejects()) == 8 * 2
    assert verify(store) == []


def test_verify_and_gc_beside_writers(store):
    (llm,) = store.fingerprints()
    processes = [
        writer_process.start(writer_process.encode, store.path, llm, *sources) for sources in ("bcdef", "fghij")
    ]
    while any(process.is_alive() for process in processes):
        assert verify(EncodingStore.open(store.path)) == []
        assert collect(store).paths == ()
    assert [process.exitcode for process in processes] == [0, 0]
    assert synthetic.rows_of(store, llm) == [row for source in "abcdefghij" for row in synthetic.expected_rows(source)]


def test_many_first_runs_at_once(tmp_path):
    path = tmp_path / "store"
    processes = [writer_process.start(writer_process.create_and_encode, path, source) for source in "abcd"]
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * 4
    store = EncodingStore.open(path)
    (llm,) = store.fingerprints()
    assert synthetic.rows_of(store, llm) == [row for source in "abcd" for row in synthetic.expected_rows(source)]
    assert verify(store) == []
