"""Counts of files that can be counted only by fetching them whole, kept from run to run."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmdiff.data.encode import ShardReport
from llmdiff.data.sources import open_source, rows_told
from pipelines.runtime.row_counts import keep_counts, recall_counts
from tests.data.pictures import write_tar
from tests.data.remote_servers import FileServer
from tests.data.test_listing import PNG


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMDIFF_HOME", str(tmp_path / "home"))


@pytest.fixture
def address(site: FileServer) -> str:
    """Of two tars."""
    for i in range(2):
        write_tar(site.root / f"{i}.tar", {"0.png": PNG[i], "0.txt": f"caption {i}"})
    return f"{site.url}/{{0..1}}.tar"


def test_a_tar_that_cannot_be_read_leaves_the_counts_of_the_others(site: FileServer, address: str) -> None:
    shards = open_source(address)
    keep_counts(shards, [ShardReport(source=shard.name, source_hash="", rows=1) for shard in shards])
    for wrong in ({"/0.tar": 404}, {"/0.tar": 409}):
        (site.root / "0.tar").unlink(missing_ok=True)
        site.odd = wrong
        shards = open_source(address)
        recall_counts(shards)
        assert [rows_told(shard) for shard in shards] == [None, 1]
    site.busy["/0.tar"] = 99
    shards = open_source(address)
    recall_counts(shards)
    assert [rows_told(shard) for shard in shards] == [None, 1]


def test_nothing_is_asked_for_where_no_count_was_kept_or_no_tag_stands_for_the_content(
    site: FileServer, address: str
) -> None:
    site.tags = ""
    shards = open_source(address)
    site.bytes.clear()
    recall_counts(shards)
    assert not site.bytes
    keep_counts(shards, [ShardReport(source=shard.name, source_hash="", rows=1) for shard in shards])
    recall_counts(open_source(address))
    assert site.bytes["/0.tar"] + site.bytes["/1.tar"] <= 4
