"""Counts of files that can be counted only by fetching them whole, kept from run to run."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest

from llmdiff.data.encode import EncoderSet, ShardReport, encode_shard
from llmdiff.data.remote.read_ahead import FIRST
from llmdiff.data.sources import known_row_count, open_source
from pipelines.runtime.encode.row_counts import keep_counts, recall_counts
from storage import EncodingStore
from tests.data.layouts import PNG
from tests.data.pictures import encoded, picture, write_tar
from tests.data.remote_servers import REPO, FileServer


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMDIFF_HOME", str(tmp_path / "home"))


@pytest.fixture
def address(site: FileServer) -> str:
    """The address of two tars."""
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
        assert [known_row_count(shard) for shard in shards] == [None, 1]
    site.busy["/0.tar"] = 99
    shards = open_source(address)
    recall_counts(shards)
    assert [known_row_count(shard) for shard in shards] == [None, 1]


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


def test_a_remote_arrow_file_is_fetched_for_its_hash_and_its_rows_and_never_for_its_count(
    site: FileServer, store: EncodingStore, encoders: EncoderSet
) -> None:
    table = pa.table(
        {
            "image": [{"bytes": encoded(picture(200, 200, seed=i), "BMP"), "path": None} for i in range(8)],
            "text": [f"caption {i}" for i in range(8)],
        }
    )
    with pa.ipc.new_stream(site.root / "a.arrow", table.schema) as file:
        file.write_table(table, max_chunksize=1)
    size = (site.root / "a.arrow").stat().st_size
    assert size > 8 * FIRST
    (shard,) = open_source(f"{site.url}/a.arrow")
    assert known_row_count(shard) is None
    assert site.bytes["/a.arrow"] < size / 2
    report = encode_shard(store, shard, encoders)
    assert (report.rows, report.samples) == (8, 8)
    assert site.bytes["/a.arrow"] < 2 * size + 12 * FIRST < 3 * size
    keep_counts([shard], [report])
    (again,) = open_source(f"{site.url}/a.arrow")
    recall_counts([again])
    site.bytes.clear()
    assert known_row_count(again) == 8
    assert not site.bytes


def test_captions_in_json_beside_remote_pictures_are_not_fetched_to_be_counted(site: FileServer) -> None:
    for i in range(2):
        (site.root / f"{i}.png").write_bytes(PNG[i])
        (site.root / f"{i}.json").write_text(json.dumps({"caption": ["one", "two"]}))
    (shard,) = open_source(f"hf:{REPO}")
    assert known_row_count(shard) is None
    assert not any("/resolve/" in path for path in site.asked)
    assert len(list(shard.rows())) == known_row_count(shard) == 4
    keep_counts([shard], [ShardReport(source=shard.name, rows=4)])
    (again,) = open_source(f"hf:{REPO}")
    recall_counts([again])
    assert known_row_count(again) == 4
