"""A server that does what it is asked and whose answer is lost: what is asked again is not taken for another's."""

from __future__ import annotations

import obstore
import pyarrow as pa
import pytest
from obstore.exceptions import GenericError

from storage.index.table import Table
from storage.index.transaction import append
from storage.io import objects
from storage.io.paths import LocalPath, store_path
from storage.locks.base import LockedError
from storage.locks.mutex import job_mutex
from storage.locks.select import select_locks
from storage.maintenance.gc import collect
from storage.maintenance.verify import verify
from storage.store import EncodingStore
from tests.storage import synthetic

SCHEMA = pa.schema([("row", pa.int64())])


@pytest.fixture(params=["dropped", "503"])
def url(request: pytest.FixtureRequest, s3_url: str) -> str:
    """A prefix as `tests.s3_server.LOSES_ANSWERS` has it; the client repeats a request by itself after a 503 alone."""
    return f"{s3_url}/answers-{request.param}/store"


def test_a_commit_is_in_once(url: str) -> None:
    table = Table(store_path(url), SCHEMA)
    for made in (Table(store_path(url), SCHEMA), table):
        made.create()
    assert table.newest().number == 0
    for value in (1, 2):
        assert append(table, f"commit-{value}", lambda version, value=value: (rows(value), ["source"])) == value
    assert values(table) == [1, 2]
    assert [path.name for path in table.parquet_files()] == ["commit-1.parquet", "commit-2.parquet"]
    assert [actions is None for actions in map(table.log.read, range(4))] == [False, False, False, True]


def test_another_commit_that_came_first_is_not_taken_for_it(url: str) -> None:
    table = Table(store_path(url), SCHEMA)
    table.create()
    seen: list[int] = []

    def build(version):
        seen.append(version.number)
        if len(seen) == 1:
            append(table, "first", lambda version: (rows(1), ["source"]))
        return rows(2), ["source"]

    assert append(table, "second", build) == 2
    assert seen == [0, 1]
    assert values(table) == [1, 2]
    assert len(table.parquet_files()) == 2


def test_who_holds_a_mutex_knows_it(url: str) -> None:
    root = store_path(url)
    with job_mutex(root, "retrain") as mutex, job_mutex(root, "retrain") as other:
        assert (mutex.is_ours, other.is_ours) == (True, False)
    assert select_locks(root / "turns").held() == []


def test_a_store_is_made_filled_and_cleared(url: str) -> None:
    store, llm = synthetic.make_store(url)
    synthetic.encode(store, llm, "a")
    assert synthetic.rows_of(EncodingStore.open(url), llm) == synthetic.expected_rows("a")
    with store.locks.removing(), pytest.raises(LockedError, match="somebody else removes files"):
        collect(store)
    assert (store.version, collect(store).paths, store.locks.held(), verify(store)) == (1, (), [], [])


def test_a_request_that_timed_out_is_repeated(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which the client does not do by itself."""
    path, timed_out = store_path(s3_url) / "entry", [False, True]

    def put(*arguments, put=obstore.put, **options):
        result = put(*arguments, **options)
        if timed_out.pop():
            raise GenericError("operation timed out")
        return result

    monkeypatch.setattr(obstore, "put", put)
    monkeypatch.setattr(objects, "WAITS", (0.0, 0.0))
    assert [path.create(data) for data in (b"ours", b"theirs")] == [True, False]
    assert path.read_bytes() == b"ours"


def test_on_a_disk_of_the_network(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its server made the link, and a second request, which the kernel sent, found it there."""
    link = LocalPath.hardlink_to

    def link_twice(path: LocalPath, target: LocalPath) -> None:
        link(path, target)
        link(path, target)

    monkeypatch.setattr(LocalPath, "hardlink_to", link_twice)
    path = LocalPath(tmp_path / "entry")
    assert [path.create(data) for data in (b"ours", b"theirs", b"ours")] == [True, False, False]
    assert path.read_bytes() == b"ours"
    assert [found.name for found in path.parent.children()] == ["entry"]


def rows(*values: int) -> pa.Table:
    return pa.table({"row": list(values)}, SCHEMA)


def values(table: Table) -> list[int]:
    return sorted(table.read(table.newest(), ["row"])["row"].to_pylist())
