"""Tables that other tools leave beside data, and that are no data: lists of downloads, caches, earlier saves."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator
from typing import Any

from llmdiff.data.remote import DataPath, RemotePath
from llmdiff.data.sources.kinds import TARS, is_picture
from llmdiff.data.sources.tars.img2dataset import is_list

STATE, INFO = "state.json", "dataset_info.json"
"""Files that Hugging Face's `datasets` writes beside Arrow files; the first names those that are the data set."""
CACHE = re.compile(r"cache-[0-9a-f]{16}(_\d+_of_\d+)?\.arrow")
"""Names of the results of a map or a filter, which `datasets` keeps beside the data set."""
UNREAD_SHARD = ".tfrecord"
"""Ending of img2dataset's shards of a format that is not read."""


def ignored_tables(folder: DataPath, tables: Iterable[DataPath], names: set[str]) -> dict[str, str]:
    """Return the names of the tables of a folder that are no data, and why each is none.

    Args:
        folder: the folder.
        tables: its tables.
        names: names of everything in it.
    """
    tables = list(tables)
    lists = {table.name: _is_list_of(table, names) for table in tables if table.suffix.lower() == ".parquet"}
    arrows = [table.name for table in tables if table.suffix.lower() == ".arrow"]
    left = {name: _is_left_by_datasets(name, names) for name in arrows}
    if arrows and STATE in names and (named := _named_by(folder / STATE)):
        why = f"{STATE} does not name it: of a map or a filter, or saved before"
        left |= {name: why for name in arrows if name not in named}
    return {name: why for name, why in {**lists, **left}.items() if why is not None}


def _is_list_of(table: DataPath, names: set[str]) -> str | None:
    """Return why a table is the list that img2dataset leaves with a shard, and no data; None where it is data."""
    shard = next(
        (f"{table.stem}{ending}" for ending in (*TARS, UNREAD_SHARD) if f"{table.stem}{ending}" in names), None
    )
    if shard is None and table.stem in names and _may_have_pictures(table.with_suffix("")):
        shard = f"{table.stem}/"
    if shard is None:
        return None
    if not is_list(table):
        is_tar = shard.endswith(TARS)
        return f"a table of the same name as {shard}; name it itself to have its rows" if is_tar else None
    if shard.endswith(UNREAD_SHARD):
        return (
            f"the list that img2dataset left with {shard}, which is not read; name it itself to have its URLs fetched"
        )
    return f"the list that img2dataset left with {shard}: its failed rows are read from it"


def _may_have_pictures(folder: DataPath) -> bool:
    """Return whether there is such a folder, and it holds pictures or may not be read."""
    try:
        return folder.is_dir() and any(map(is_picture, _names_in(folder)))
    except ConnectionError:
        raise
    except OSError:
        return True


def _names_in(folder: DataPath) -> Iterator[str]:
    yield from (entry.name for entry in (folder.iterdir() if isinstance(folder, RemotePath) else os.scandir(folder)))


def _is_left_by_datasets(name: str, names: set[str]) -> str | None:
    is_beside = STATE in names or INFO in names
    return "what `datasets` keeps of a map or a filter" if is_beside and CACHE.fullmatch(name) else None


def _named_by(state: DataPath) -> set[str]:
    """Return the names of a data set's Arrow files; none where its description does not say."""
    try:
        described: Any = json.loads(state.read_bytes())
        return {str(file["filename"]) for file in described["_data_files"]}
    except ConnectionError:
        raise
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return set()
