"""Read the number of samples in a tar from the note that the tool that wrote it left beside it."""

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
"""Bytes above which such a note is not read."""


def noted_rows(tar: DataPath) -> int | None:
    """Return the noted number of a tar's samples, good enough for a progress bar only; None where there is no note.

    Notes are WebDataset's ``<name>.idx``, img2dataset's ``<name>_stats.json``, and lists of the folder's tars
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
    """Return the bytes of a file beside a tar; FileNotFoundError also where a remote place would have to be asked."""
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
    """Return the number of samples: it follows the version in the first line."""
    _, rows = data.split(b"\n", 1)[0].split()
    return int(rows)


def _of_stats(data: bytes) -> Any:
    """Return the number of rows that img2dataset tried, downloaded or not."""
    return json.loads(data)["count"]


def _of_list(data: bytes, name: str) -> Any:
    shards = json.loads(data)["shardlist"]
    return next(shard["nsamples"] for shard in shards if str(shard["url"]).rpartition("/")[2] == name)
