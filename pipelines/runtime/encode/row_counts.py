"""Row counts of shards before they are read.

Shards elsewhere that can only be counted by fetching them whole, as tars, are counted once, in a file below
the folder of runs. It saves time alone: without it, a shard that the store knows is fetched once more.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from infra.environment import home
from llmdiff.data.encode import ShardReport
from llmdiff.data.rejects import printable
from llmdiff.data.remote import DataPath, RemotePath, is_remote
from llmdiff.data.remote.parallel import each
from llmdiff.data.sources import SourceShard, expected_row_count
from llmdiff.data.sources.streamed import Streamed
from pipelines.requests.encode import EncodeRequest
from pipelines.runtime.progress import BYTES
from storage.io.files import write_file


@dataclass(frozen=True)
class Work:
    """Amount of data to read, as a bar counts it."""

    total: int | None
    """Number of units; None where nobody knows it."""
    unit: str = "row"
    """``row``, or `BYTES`, where a shard's rows can't be told without reading it through."""
    sizes: Mapping[str, int] = field(default_factory=dict)
    """Bytes of each shard, by name, where the unit is bytes."""

    def of(self, reports: Sequence[ShardReport]) -> int:
        """Return how much of it is done with some shards."""
        return sum(self.sizes.get(each.source, 0) if self.unit == BYTES else each.rows for each in reports)


def count_rows(request: EncodeRequest, shards: list[SourceShard]) -> tuple[Work, dict[str, str]]:
    """Return how much there is to do, and why some shards can't be read; nothing is read through or fetched for it.

    ValueError where none can be read, before anything is loaded.
    """
    rows, broken = [], {}
    for shard, counted in zip(shards, each(_rows, shards, is_remote(request.data)), strict=True):
        if isinstance(counted, ValueError):
            broken[shard.name] = printable(str(counted))
        else:
            rows.append(counted)
    if broken and not rows and request.readiness is None:
        raise ValueError("; ".join(broken.values()))
    if None not in rows:
        return Work(sum(filter(None, rows))), broken
    sizes = _sizes([shard for shard in shards if shard.name not in broken])
    return Work(None) if sizes is None else Work(sum(sizes.values()), BYTES, sizes), broken


def _sizes(shards: Sequence[SourceShard]) -> dict[str, int] | None:
    """Return the bytes of each shard's file; None where one has no file of its own, or its place does not say."""
    with suppress(OSError, ValueError, AttributeError):
        return {shard.name: _size(shard.file) for shard in shards}  # type: ignore[attr-defined]
    return None


def _size(file: DataPath) -> int:
    """Return the bytes of a file; ValueError where its place would have to be asked for it."""
    if isinstance(file, RemotePath):
        facts = file.facts if file.place.can_list else None
        if facts is None:
            raise ValueError(f"{file}: its size is not known")
        return facts.size
    return file.stat().st_size


def recall_counts(shards: Sequence[SourceShard]) -> None:
    """Give shards the number of their rows, where a run before counted them; nothing is fetched for it but facts.

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
    read = [shard for shard in shards if shard.name in rows]
    keys = ((_key(streamed), streamed) for streamed in _streamed(read))
    found = {key: rows[streamed.name] for key, streamed in keys if key is not None}
    if found:
        path = _path()
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, json.dumps(_read() | found).encode())


def _streamed(shards: Sequence[SourceShard]) -> list[Streamed]:
    return [shard for shard in shards if isinstance(shard, Streamed) and shard.is_streamed]


def _key(shard: Streamed) -> str | None:
    """Return a key for a shard's content; None where only its bytes could tell, or its place says nothing."""
    with suppress(ValueError, OSError):
        return shard.facts_hash()
    return None


def _path() -> Path:
    return home() / "row-counts.json"


def _read() -> dict[str, int]:
    try:
        found: dict[str, int] = json.loads(_path().read_bytes())
        return found
    except (FileNotFoundError, ValueError):
        return {}


def _rows(shard: SourceShard) -> int | None | ValueError:
    """Return a shard's rows, if known or noted, or why it is unreadable, which it says again in its turn."""
    try:
        return expected_row_count(shard)
    except ValueError as error:
        return error
