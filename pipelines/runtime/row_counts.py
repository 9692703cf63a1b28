"""Rows of shards that lie elsewhere and can be counted only by fetching them whole, as a tar: once, for all runs.

A file below the folder of runs. It saves time alone: without it, a shard that the store knows is fetched once more.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from infra.environment import home
from llmdiff.data.encode import ShardReport
from llmdiff.data.remote import RemotePath
from llmdiff.data.remote.parallel import each
from llmdiff.data.sources import SourceShard, TarShard
from storage.io.files import write_file


def recall_counts(shards: Sequence[SourceShard]) -> None:
    """Tell shards how many rows they have, where a run before counted them; nothing is fetched for it but facts.

    A file that cannot be read, or whose place does not answer, says so when its turn comes.
    """
    known = _read()
    streamed = _streamed(shards) if known else []
    for shard, key in zip(streamed, each(_key, streamed, remote=True), strict=True):
        if key in known:
            shard.tell_count(known[key])


def keep_counts(shards: Sequence[SourceShard], reports: Sequence[ShardReport]) -> None:
    """Keep how many rows a run found in such shards."""
    rows = {report.source: report.rows for report in reports}
    found = {key: rows[shard.name] for shard in _streamed(shards) if shard.name in rows and (key := _key(shard))}
    if found:
        path = _path()
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, json.dumps(_read() | found).encode())


def _streamed(shards: Sequence[SourceShard]) -> list[TarShard]:
    return [shard for shard in shards if isinstance(shard, TarShard) and shard.is_remote]


def _key(shard: TarShard) -> str | None:
    """What stands for a file's content and for what of it is read; None where only its bytes could say."""
    assert isinstance(shard.file, RemotePath)
    try:
        facts = shard.file.facts
    except (ValueError, OSError):
        return None
    content = None if facts is None else facts.content_hash
    return None if content is None else hashlib.sha256(f"{content}:{shard.columns!r}".encode()).hexdigest()


def _path() -> Path:
    return home() / "row-counts.json"


def _read() -> dict[str, int]:
    try:
        found: dict[str, int] = json.loads(_path().read_bytes())
        return found
    except (FileNotFoundError, ValueError):
        return {}
