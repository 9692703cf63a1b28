"""What a run hands to those that do it: shards that are hashed ahead, and a GPU for each process."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path

import pytest
import torch

from llmdiff.data.encode.pipeline import ahead
from llmdiff.data.sources import open_source
from pipelines.runtime.encode.new_rows import hashed
from pipelines.runtime.executors import gpu_of
from tests.data.pictures import encoded, picture, write_parquet


def test_the_next_shard_is_hashed_while_one_is_encoded(tmp_path: Path) -> None:
    for name in "abd":
        write_parquet(tmp_path / f"{name}.parquet", [(encoded(picture()), "a red circle")])
    (tmp_path / "c.parquet").write_bytes(b"not parquet, but long enough for a footer")
    shards = open_source(tmp_path)
    with closing(ahead(hashed(shards), 1, "hash")) as found:
        assert next(found) is shards[0]
        end = time.monotonic() + 20
        while "content_hash" not in vars(shards[1]) and time.monotonic() < end:
            time.sleep(0.01)
        assert "content_hash" in vars(shards[1])
        assert "content_hash" not in vars(shards[3]), "no further ahead"
        assert list(found) == shards[1:], "one that can't be read says so to who reads it"


def test_processes_share_the_gpus_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert [gpu_of(process) for process in range(5)] == [0, 1, 2, 0, 1]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu_of(1) is None
