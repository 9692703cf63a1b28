"""Before a run starts no tar is read through: what lies beside it says how many rows it has, or a bar counts bytes."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from llmdiff.data.sources import expected_row_count, known_row_count, list_data, open_source
from pipelines.requests.encode import EncodeRequest
from pipelines.runtime.encode.row_counts import Work, count_rows
from pipelines.runtime.progress import BYTES, advance, progress
from tests.data.pictures import encoded, picture, write_tar

PNG = encoded(picture())
ROWS = 5
LIST = {"wids_version": 1, "shardlist": [{"url": "https://x/b.tar", "nsamples": 3}, {"url": "a.tar", "nsamples": 70}]}


@pytest.fixture
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A tar of some samples, ``a.tar``, and the headers that are read of it."""
    write_tar(tmp_path / "a.tar", {f"{i}.{kind}": PNG for i in range(ROWS) for kind in ("png", "txt")})
    found: list[str] = []
    advance_to_next = tarfile.TarFile.next

    def note(tar: tarfile.TarFile) -> Any:
        found.append(str(tar.name))
        return advance_to_next(tar)

    monkeypatch.setattr(tarfile.TarFile, "next", note)
    return found


def count(folder: Path) -> Work:
    work, broken = count_rows(EncodeRequest(data=str(folder), store="store", diffusion="sd"), open_source(folder))
    assert not broken
    return work


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.idx", "v1.2 70\npng 512 100 0.png txt 1024 10 0.txt"),
        ("a_stats.json", json.dumps({"count": 70, "successes": 60, "status_dict": {"success": 60}})),
        ("wds-index.json", json.dumps(LIST)),
        ("wids-index.json", json.dumps(LIST)),
    ],
)
def test_a_list_beside_it_says_how_many(tmp_path: Path, read: list[str], name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    (shard,) = open_source(tmp_path)
    assert count(tmp_path) == Work(70)
    assert len(read) < ROWS
    assert known_row_count(shard) is None, "whether rows are left to encode is never decided by a list"
    assert shard.count == ROWS


@pytest.mark.parametrize(
    "text", ["", "x", "[]", "-3", '{"count": -1}', '{"count": null}', "v1.2 many\n", '{"shardlist": []}']
)
def test_a_list_that_says_nothing_leaves_the_bar_to_bytes(tmp_path: Path, read: list[str], text: str) -> None:
    for name in ("a.idx", "a_stats.json", "wds-index.json"):
        (tmp_path / name).write_text(text)
    (shard,) = open_source(tmp_path / "a.tar")
    assert expected_row_count(shard) is None
    size = (tmp_path / "a.tar").stat().st_size
    assert count(tmp_path / "a.tar") == Work(size, BYTES, {"a.tar": size})
    assert len(read) < 2 * ROWS


def test_lists_are_no_data(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", {"0.png": PNG, "0.txt": "x"})
    (tmp_path / "wds-index.json").write_text(json.dumps(LIST))
    assert [name for _, name in list_data(tmp_path).files] == ["a.tar"]


def test_what_is_no_tar_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"no such thing" * 100)
    with pytest.raises(ValueError, match="a.tar: expected a tar file, found none or a damaged one"):
        count(tmp_path)


def test_of_shards_without_files_of_their_own_nothing_is_known(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", {"0.png": PNG, "0.txt": "x"})
    (tmp_path / "b.jsonl").write_text(json.dumps({"caption": "x"}))
    assert count(tmp_path) == Work(None)


def test_a_bar_of_bytes_counts_no_rows() -> None:
    with progress("encode", 4_000_000, BYTES) as work:
        advance(100)
        assert work.done == 0
        advance(1_000_000, in_bytes=True)
        assert work.line().startswith("encode: 1.00MB of 4.00MB (25 %), ")
    with progress("encode", 10, "row") as work:
        advance(1_000_000, in_bytes=True)
        advance(2)
        assert work.done == 2
