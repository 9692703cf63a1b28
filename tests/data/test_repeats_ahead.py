"""Rows that hold what a sample holds, found as they are read, ahead of the models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmdiff.data.encode import EncoderSet, encode_shard
from llmdiff.data.images import load_image
from llmdiff.data.sources import open_source
from storage import EncodingStore
from tests.data.data_set_run import CAPTIONS, PNG, run
from tests.data.pictures import write_parquet


def test_rows_in_a_new_place_are_read_but_not_decoded_and_count_as_done(
    store: EncodingStore, encoders: EncoderSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = list(zip(PNG, CAPTIONS, strict=True))
    (first,) = open_source(write_parquet(tmp_path / "a.parquet", rows[:5]))
    encode_shard(store, first, encoders)
    decoded: list[bytes] = []

    def watched(data: bytes, *args: Any, **settings: Any) -> Any:
        decoded.append(data)
        return load_image(data, *args, **settings)

    monkeypatch.setattr("llmdiff.data.encode.reading.load_image", watched)
    (moved,) = open_source(write_parquet(tmp_path / "b.parquet", rows[::-1]))
    done: list[int] = []
    report = encode_shard(store, moved, encoders, done.append)
    assert decoded == PNG[5:]
    assert (report.repeated, report.samples, report.captions, report.latents) == (5, 1, 1, 1)
    assert sum(done) == 6


def test_a_file_of_repeats_alone_says_what_is_not_read_of_it(
    store: EncodingStore, encoders: EncoderSet, tmp_path: Path
) -> None:
    images = [{"bytes": data, "path": None} for data in PNG]
    columns = {"image": images, "text": CAPTIONS}
    run(store, write_parquet(tmp_path / "a.parquet", list(zip(PNG, CAPTIONS, strict=True))), encoders)
    pq.write_table(pa.table({**columns, "score": range(6)}), tmp_path / "b.parquet")
    (scored,) = open_source(tmp_path / "b.parquet")
    report = encode_shard(store, scored, encoders)
    assert (report.repeated, report.unread) == (6, ("score",))
