"""Damage is found, named, and repaired without losing what is whole."""

import json
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest

from storage import EncodingStore
from storage.maintenance.check_shard import check_in_processes
from storage.maintenance.repair import repair
from storage.maintenance.summary import list_shards
from storage.maintenance.verify import verify
from tests.examples import examples
from tests.python_path import python_path
from tests.storage import synthetic

ROWS = range(40)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    store, llm = synthetic.make_store(tmp_path_factory.mktemp("whole") / "store")
    for source in ("a", "b"):
        synthetic.encode(store, llm, source, ROWS, shard=source)
    assert verify(store) == []
    return store.path


@pytest.fixture
def store(whole, tmp_path) -> EncodingStore:
    return EncodingStore.open(shutil.copytree(whole, tmp_path / "store"))


def files(store: EncodingStore) -> list[Path]:
    locks = store.path / "writing"
    return sorted(path for path in store.path.rglob("*") if path.is_file() and locks not in path.parents)


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place % len(data)] ^= 1 << place % 8
    path.write_bytes(data)


def chunk(store: EncodingStore, kind: str) -> Path:
    return next(path for path in (store.path / "shards/a" / kind).rglob("c/**/*") if path.is_file())


def test_a_flipped_bit_anywhere_is_found(store):
    random = np.random.default_rng(0)
    for path in files(store):
        if path.name == "store.json" or path.parent.name == "checksums":
            continue
        for place in random.integers(0, path.stat().st_size, examples(2)):
            good = path.read_bytes()
            flip(path, int(place))
            problems = verify(EncodingStore.open(store.path))
            name = path.relative_to(store.path).as_posix()
            assert name in {problem.path for problem in problems}, f"{name} at {place}: {problems}"
            path.write_bytes(good)
    assert verify(EncodingStore.open(store.path)) == []


def test_a_missing_or_truncated_file_is_found(store):
    for path in files(store):
        if path.name == "store.json" or path.parent.name == "checksums":
            continue
        name, good = path.relative_to(store.path).as_posix(), path.read_bytes()
        for kind, data in (("missing", None), ("truncated", good[:-1])):
            path.unlink()
            if data is not None:
                path.write_bytes(data)
            problems = verify(EncodingStore.open(store.path))
            found = {problem.path: problem.kind for problem in problems}
            assert name in found, f"{name}: {problems}"
            if "shards" in path.parts and path.name != "manifest.json":
                assert found[name] == kind
            path.write_bytes(good)


def test_orphans_are_found(store):
    (store.path / "shards/a/notes.txt").write_text("not ours")
    (store.path / "shards/of-nobody").mkdir()
    (store.path / "index/of-nobody.parquet").write_bytes(b"x")
    found = {problem.path: problem.kind for problem in verify(store)}
    assert found == dict.fromkeys(["shards/a/notes.txt", "shards/of-nobody", "index/of-nobody.parquet"], "orphan")


def test_a_missing_shard_is_found_with_its_rows(store):
    shutil.rmtree(store.path / "shards/b")
    (problem,) = verify(store)
    assert (problem.kind, problem.path) == ("missing", "shards/b")
    info = next(shard for shard in list_shards(store) if shard.name == "b")
    assert (len(problem.encodings), len(problem.latents)) == (info.encodings, info.latents)
    assert str(problem).startswith("missing: shards/b: expected a folder, found none (")


def test_rows_that_the_files_do_not_hold(store):
    """A shard swapped for another, each file of it in order: only the index can tell."""
    shutil.rmtree(store.path / "shards/a")
    shutil.copytree(store.path / "shards/b", store.path / "shards/a")
    problems = verify(store)
    assert {problem.kind for problem in problems} == {"mismatch"}


@pytest.mark.parametrize("place", [0, 1000, -1])
@pytest.mark.parametrize("kind", ["encodings", "latents"])
def test_repair_loses_only_what_is_lost(store, kind, place):
    (llm,) = store.fingerprints()
    flip(chunk(store, kind), place)
    before, problems = synthetic.rows_of(store, llm), verify(store)
    version = store.version
    repaired = repair(store, problems)
    lost = [(row["source"], row["row"]) for row in repaired.lost.to_pylist()]
    assert repaired.version == store.version == version + 1
    assert verify(store) == []
    assert synthetic.rows_of(store, llm) == [row for row in before if row[:2] not in lost]
    if place != -1:  # the last byte is of the index of the file: all its chunks are lost
        assert len(lost) <= len(problems[0].encodings) * 2 + len(problems[0].latents) <= 8
    assert synthetic.encode(store, llm, "a", ROWS) + synthetic.encode(store, llm, "b", ROWS) == len(lost)
    assert synthetic.rows_of(store, llm) == before
    assert verify(store) == []
    synthetic.check_encodings(store, llm, [caption for _, _, caption in before])


def test_repair_of_a_lost_shard(store):
    (llm,) = store.fingerprints()
    before = synthetic.rows_of(store, llm)
    shutil.rmtree(store.path / "shards/a")
    lost = repair(store, verify(store)).lost
    assert set(lost["source"].to_pylist()) == {"a.parquet", "b.parquet"}, "b's rows share some of a's captions"
    assert synthetic.encode(store, llm, "a", ROWS) + synthetic.encode(store, llm, "b", ROWS) == len(lost)
    assert synthetic.rows_of(store, llm) == before
    assert verify(store) == []


def test_repair_refuses_what_no_data_can_mend(store):
    path = next((store.path / "fingerprints").iterdir())
    path.write_text(json.dumps({"kind": "another"}))
    with pytest.raises(ValueError, match="can't be repaired"):
        repair(store, verify(store))


def test_what_an_interrupted_writer_left_is_no_problem(store):
    (store.path / "writing/left.lock").write_text("{}")  # of another machine
    (store.path / "shards/left").mkdir()
    assert verify(store) == []


@pytest.mark.process
def test_several_processes_find_what_one_does(store):
    flip(chunk(store, "encodings"), 0)
    shutil.rmtree(store.path / "shards/b")
    expected, done = verify(store), []
    found = verify(store, lambda *numbers: done.append(numbers), partial(check_in_processes, 2))
    assert [problem.kind for problem in found] == ["flipped", "missing"]
    assert found == expected
    assert done == [(1, 2), (2, 2)]


CHECKS = """
import multiprocessing, time
from storage.io.paths import store_path
from storage.maintenance.check_shard import check_in_processes

def shards():
    yield "a", []
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    time.sleep(60)

if __name__ == "__main__":
    list(check_in_processes(1, store_path("nowhere"), shards()))
"""


@pytest.mark.process
def test_the_processes_end_with_one_that_is_killed(tmp_path):
    (tmp_path / "checks.py").write_text(CHECKS)
    command = [sys.executable, str(tmp_path / "checks.py")]
    environment = {**os.environ, "PYTHONPATH": python_path(Path(__file__).parents[2])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as checks:
        child = psutil.Process(int(checks.stdout.readline()))
        assert child.is_running()
        checks.kill()
        child.wait(20)


def test_little_memory_finds_the_same(store, monkeypatch):
    """The rows of each shard in a part of their own."""
    flip(chunk(store, "encodings"), 0)
    flip(chunk(store, "latents"), 0)
    expected, infos = verify(store), list_shards(store)
    monkeypatch.setattr("storage.maintenance.stored_rows.INDEX_BYTES_A_PART", 1)
    monkeypatch.setattr("storage.io.array_parts.PART_ROWS", 1)
    monkeypatch.setattr("storage.index.row_stream.ROWS", 3)
    monkeypatch.setenv("LLMDIFF_CACHE", str(store.path.parent / "cache"))
    assert verify(store) == expected
    assert list_shards(store) == infos
