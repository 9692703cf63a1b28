"""Many files of a table to few: which, when, and that nothing but their number changes."""

from __future__ import annotations

import itertools
from pathlib import Path

import pyarrow as pa
import pytest

from storage import EncodingStore
from storage.index import compaction
from storage.index.compaction import LARGE, LARGEST, SMALL, due, plan
from storage.index.delta import DataFile
from storage.index.table import Table, TableVersion
from storage.index.transaction import append, rewrite
from storage.io.paths import store_path
from storage.locks.base import LockedError
from storage.locks.mutex import job_mutex
from storage.maintenance.gc import collect, drop
from storage.maintenance.verify import verify
from storage.writing.optimize import JOB, compact, optimize
from tests.storage import synthetic


def version_of(*rows: int, crc32c: int | None = 1) -> TableVersion:
    """Files of so many rows, the oldest first."""
    return TableVersion(1, tuple(DataFile(f"{i:03}", count, 1, i, crc32c) for i, count in enumerate(rows)))


def rows_of(files: list[DataFile]) -> list[int]:
    return [file.rows for file in files]


def test_files_of_one_size_are_merged_once_there_are_enough() -> None:
    assert due(version_of(*[4096] * 31)) == []
    assert rows_of(due(version_of(*[4096] * 40))) == [4096] * 32
    assert due(version_of(*[4096] * 32))[0].name == "000"
    assert rows_of(due(version_of(*[SMALL] * 16, *[LARGE] * 50))) == [SMALL] * 16
    assert due(version_of(*[LARGE] * 50)) == []


def test_a_hundred_million_rows_come_to_few_files_each_row_written_three_times() -> None:
    files: list[DataFile] = []
    ages, written = itertools.count(), 0

    def add(rows: int) -> None:
        files.append(DataFile(f"{(age := next(ages)):06}", rows, 1, age, 1))

    for _ in range(24_415):
        add(4096)
        while merged := due(TableVersion(1, tuple(files))):
            whole = sum(rows_of(merged))
            for file in merged:
                files.remove(file)
            add(whole)
            written += whole
    assert len(files) <= 100
    assert written / (24_415 * 4096) <= 2


def test_all_that_can_be_merged() -> None:
    assert plan(version_of(LARGE, LARGEST, 4096)) == []
    assert [rows_of(group) for group in plan(version_of(LARGE, 4096, SMALL, 1))] == [[4096, SMALL, 1]]
    half = LARGEST // 2
    assert [rows_of(group) for group in plan(version_of(*[half] * 5))] == [[half] * 2, [half] * 2]
    assert [rows_of(group) for group in plan(version_of(LARGE, crc32c=None))] == [[LARGE]]


@pytest.fixture
def store(tmp_path: Path) -> EncodingStore:
    """Two encoders' rows of two sources, interleaved."""
    store, llm = synthetic.make_store(tmp_path / "store")
    other = store.register_fingerprint({**synthetic.LLM, "seed": 1})
    for source, encoder in (("a", llm), ("a", other), ("b", other), ("b", llm)):
        synthetic.encode(store, encoder, source)
    return store


def test_nothing_changes_but_the_number_of_files(store: EncodingStore) -> None:
    before = store.samples(), store.rejects()
    pinned = EncodingStore.open(store.path, version=3)
    then = pinned.samples()
    planned = optimize(store, dry_run=True)
    assert store.version == 4
    seen: list[tuple[int, int]] = []
    assert optimize(store, progress=lambda done, rows: seen.append((done, rows))) == planned
    assert [(table.table, table.files, table.merged, table.into) for table in planned] == [
        ("index", 4, 4, 1),
        ("rejects", 4, 4, 1),
        ("repeats", 0, 0, 0),
    ]
    assert seen[-1] == (sum(table.rows for table in planned),) * 2
    assert (store.samples(), store.rejects()) == before
    assert pinned.samples() == EncodingStore.open(store.path, version=3).samples() == then
    assert verify(store) == verify(pinned) == []
    assert [table.merged for table in optimize(store)] == [0, 0, 0]
    assert store.version == 5
    kept = len(store.index.parquet_files())
    collect(store, keep=[3])
    assert len(store.index.parquet_files()) == kept - 1, "of version 4's files alone, the newest one"
    assert pinned.samples() == then
    drop(store, fingerprint=next(iter(store.fingerprints())))
    assert len(store.samples()) == len(before[0]) // 2


def test_each_encoders_rows_come_together(store: EncodingStore) -> None:
    optimize(store)
    (file,) = store.index.newest().files
    encoders = store.index.read_file(file, ["fingerprint"])["fingerprint"].to_pylist()
    assert encoders == sorted(encoders)
    sources = store.index.read_file(file, ["source"])["source"].to_pylist()
    assert len(sources[: len(sources) // 2]) == 36
    assert sorted(set(sources)) == ["a.parquet", "b.parquet"]


def test_a_writer_compacts_when_enough_has_come_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "MERGED_AT_ONCE", {range(SMALL): 3})
    store, llm = synthetic.make_store(tmp_path / "store")
    files = []
    for source in "abcde":
        synthetic.encode(store, llm, source)
        files.append(len(store.index.newest().files))
    assert files == [1, 2, 1, 2, 1]
    assert synthetic.rows_of(store, llm) == [row for source in "abcde" for row in synthetic.expected_rows(source)]
    assert store.locks.held() == []
    assert verify(store) == []


def test_one_process_at_a_time(store: EncodingStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "MERGED_AT_ONCE", {range(SMALL): 2})
    with job_mutex(store.path, JOB):
        compact(store)
        with pytest.raises(LockedError, match="being optimized by process"):
            optimize(store)
    assert store.version == 4
    with pytest.raises(ValueError, match="opened at version 4, which can't be written to"):
        optimize(EncodingStore.open(store.path, version=4))


def test_who_is_overtaken_by_a_rewrite_leaves_all_as_it_is(
    store: EncodingStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows are dropped after the merged file was written and before its commit."""
    llm, other = store.fingerprints()
    committing = store.locks.committing

    def overtaken():
        monkeypatch.setattr(store.locks, "committing", committing)
        drop(EncodingStore.open(store.path), fingerprint=other)
        return committing()

    monkeypatch.setattr(store.locks, "committing", overtaken)
    assert [table.merged for table in optimize(store)][0] == 0
    assert synthetic.rows_of(store, other) == []
    assert synthetic.rows_of(store, llm) == synthetic.expected_rows("a") + synthetic.expected_rows("b")
    assert verify(store) == []


def test_a_rewrite_changes_row_groups_each_once_and_leaves_the_other_files(tmp_path: Path) -> None:
    table = Table(store_path(tmp_path / "table"), pa.schema([("row", pa.int64())]))
    table.create()
    for first in (0, 40_000):
        rows = pa.table({"row": range(first, first + 40_000)})
        append(table, f"from-{first}", lambda version, rows=rows: (rows, []))
    seen: list[int] = []

    def without(rows: pa.Table) -> pa.Table:
        seen.extend(rows["row"].to_pylist())
        return rows.filter(pa.array([row != 20_000 for row in rows["row"].to_pylist()]))

    assert rewrite(table, "without", without) == 3
    assert sorted(seen) == list(range(80_000))
    assert table.newest().files == ("from-40000.parquet", "without~0.parquet")
    assert sorted(table.read(table.newest(), ["row"])["row"].to_pylist()) == [
        row for row in range(80_000) if row != 20_000
    ]
