"""Rows of shards that lie elsewhere and can be counted only by fetching them whole, as a tar: once, for all runs.

A file below the folder of runs. It saves time alone: without it, a shard that the store knows is fetched once more.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from infra.environment import home
from llmdiff.data.encode import ShardReport
from llmdiff.data.sources import SourceShard, TarShard
from storage.io.files import write_file


def recall_counts(shards: Sequence[SourceShard]) -> None:
    """Give shards the number of their rows, where a run before counted them."""
    remote = _remote_tars(shards)
    known = _read() if remote else {}
    for shard in remote:
        if shard.content_hash in known:
            shard.tell_count(known[shard.content_hash])


def keep_counts(shards: Sequence[SourceShard], reports: Sequence[ShardReport]) -> None:
    """Keep how many rows a run found in such shards."""
    rows = {report.source: report.rows for report in reports}
    found = {shard.content_hash: rows[shard.name] for shard in _remote_tars(shards) if shard.name in rows}
    if found:
        path = _path()
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, json.dumps(_read() | found).encode())


def _remote_tars(shards: Sequence[SourceShard]) -> list[TarShard]:
    return [shard for shard in shards if isinstance(shard, TarShard) and shard.is_remote]


def _path() -> Path:
    return home() / "row-counts.json"


def _read() -> dict[str, int]:
    try:
        found: dict[str, int] = json.loads(_path().read_bytes())
        return found
    except (FileNotFoundError, ValueError):
        return {}
