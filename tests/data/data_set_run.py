"""Runs of encode over a data set, as the flow makes them, and what a store holds of it then."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from llmdiff.data.encode import EncoderSet, ShardReport, encode_shard
from llmdiff.data.encode.data_set import LeftRows, find_left
from llmdiff.data.sources import Columns, list_data, shards_of
from llmdiff.data.sources.columns import KNOWN
from storage import EncodingStore
from tests.data.pictures import encoded, picture

PNG = [encoded(picture(seed=seed)) for seed in range(6)]
CAPTIONS = ["a red circle", "a blue square", "a green triangle", "a large cross", "two red circles", "a blue circle"]


class EncodeRun(NamedTuple):
    """What a run of a data set did."""

    rows: int
    known: int
    new: int
    rejected: int
    left: LeftRows


def run(store: EncodingStore, data: Path, encoders: EncoderSet, columns: Columns = KNOWN) -> EncodeRun:
    """Encode a data set, as the flow does."""
    listed = list_data(data, columns=columns)
    reports: list[ShardReport] = []
    unread = {}
    for shard in shards_of(listed.files, columns):
        try:
            reports.append(encode_shard(store, shard, encoders, allow_private=True))
        except ValueError as error:
            unread[shard.name] = str(error)
    for report in reports:
        assert report.rows == report.known + report.samples + report.rejected.total()
    sources = {report.source_hash: report.source for report in reports}
    left = find_left(store, str(data), encoders.fingerprint, sources, unread, listed.passed_over, columns)
    totals = [sum(getattr(report, name) for report in reports) for name in ("rows", "known", "samples")]
    return EncodeRun(*totals, sum(report.rejected.total() for report in reports), left)


def contents(store: EncodingStore) -> list[tuple[str | None, str]]:
    """What the samples hold, once for each."""
    rows = store.samples()
    return sorted(zip(*(rows[name].to_pylist() for name in ("image_hash", "caption")), strict=True), key=str)
