"""The number of samples in a tar as the tool that wrote it noted beside it: a tar has no index of its own."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from llmdiff.data.remote import DataPath
from llmdiff.data.sources.kinds import kind_of

INDEX_NAMES = ("wds-index.json", "wids-index.json")
"""Names of WebDataset's lists of a folder's tars."""
MAX_BYTES = 64 * 1024**2
"""A larger index is not read."""


def noted_rows(tar: DataPath) -> int | None:
    """Return how many samples a tar is noted to have, which is good for a bar alone; None where nothing says it.

    It is said by WebDataset's ``<name>.idx``, by img2dataset's ``<name>_stats.json``, or by a list of the folder's tars
    (`INDEX_NAMES`).
    """
    stem = tar.name[: -len(kind_of(tar))]
    sources: list[tuple[str, Callable[[bytes], Any]]] = [
        (f"{stem}.idx", _of_idx),
        (f"{stem}_stats.json", _of_stats),
        *((name, lambda data: _of_list(data, tar.name)) for name in INDEX_NAMES),
    ]
    for name, read in sources:
        with suppress(ValueError, OSError, KeyError, TypeError, AttributeError, StopIteration):
            if (rows := read(_beside(tar, name))) >= 0:
                return int(rows)
    return None


def _beside(tar: DataPath, name: str) -> bytes:
    """Return the bytes of a file beside a tar; FileNotFoundError where finding out would take asking a place."""
    file = tar.with_name(name)
    if isinstance(file, Path):
        size = file.stat().st_size
    else:
        folder = file.parent
        listed = folder.is_listed or not file.place.can_list
        facts = file.facts if listed and folder.holds(name) else None
        size = MAX_BYTES + 1 if facts is None else facts.size
    if size > MAX_BYTES:
        raise FileNotFoundError(str(file))
    return file.read_bytes()


def _of_idx(data: bytes) -> int:
    """The first line has a version and the number of samples, each of which has a line below."""
    _, rows = data.split(b"\n", 1)[0].split()
    return int(rows)


def _of_stats(data: bytes) -> Any:
    """The rows that img2dataset got, and those it did not, which its list beside the tar has."""
    return json.loads(data)["count"]


def _of_list(data: bytes, name: str) -> Any:
    shards = json.loads(data)["shardlist"]
    return next(shard["nsamples"] for shard in shards if str(shard["url"]).rpartition("/")[2] == name)
