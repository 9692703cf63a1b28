"""The part of the Delta protocol that the store writes and reads; the rest is left to the Delta library.

delta-rs sums up logs. Entries are written and read here, for delta-rs lists the whole log for each: at
100,000 commits it takes 0.35 s for one and 0.1 s to see what is new, and both grow with every commit. Everything that
could break under another version of delta-rs is in this module; `tests/storage/test_delta.py` pins each, and compares
what delta-rs reads with what the store does.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlparse

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable, Schema

KEEP_HISTORY = {"delta.logRetentionDuration": "interval 36500 days", "delta.enableExpiredLogCleanup": "false"}
CHECKSUMS = "checksums"
"""Name of the Parquet files' checksums in an entry of the log."""
CRC = "crc32c"
"""Name of a file's checksum in the tags of its action, which checkpoints keep."""
HASHES = ("fingerprint", "caption_hash", "image_hash", "latent_key", "source_hash")
"""Columns whose smallest and largest values are in a file's action, so that any Delta client can leave files out."""

Action = dict[str, Any]
"""A line of an entry of the log."""


@dataclass(frozen=True)
class DataFile:
    """A Parquet file of a table, as the log names it."""

    name: str
    """Name of the file in the table's folder."""
    rows: int
    size: int
    """Size in bytes."""
    written: int
    """Time of the action in milliseconds: two files of one name, in copies of a table, differ in it."""
    crc32c: int | None = None
    """Checksum of its bytes; None where the log does not say it."""


def is_table(folder: str) -> bool:
    """Return whether there is a table in a folder."""
    return bool(DeltaTable.is_deltatable(folder))


def first_entry(schema: pa.Schema) -> bytes:
    """Return the first entry of an empty table that keeps every version.

    delta-rs, where another made the table just now or the answer to its own request was lost, makes it once more as
    version 1, under another id.
    """
    metadata = {
        "id": str(uuid.uuid4()),
        "format": {"provider": "parquet", "options": {}},
        "schemaString": Schema.from_arrow(schema).to_json(),
        "partitionColumns": [],
        "createdTime": now(),
        "configuration": KEEP_HISTORY,
    }
    info = {"timestamp": now(), "operation": "CREATE TABLE", "operationParameters": {}, "engineInfo": "llmdiff"}
    lines = [{"commitInfo": info}, {"protocol": {"minReaderVersion": 1, "minWriterVersion": 2}}, {"metaData": metadata}]
    return "\n".join(map(json.dumps, lines)).encode()


def create_checkpoint(folder: str) -> int:
    """Sum up the log of a table; return the version up to which."""
    delta = DeltaTable(folder)
    delta.create_checkpoint()
    return int(delta.version())


def file_names(delta: DeltaTable) -> tuple[str, ...]:
    """Return the names of a version's Parquet files in the table's folder, as delta-rs reads them, sorted."""
    uris = (urlparse(uri).path if "://" in uri else uri for uri in delta.file_uris())
    return tuple(sorted(Path(unquote(uri)).name for uri in uris))


def statistics(metadata: pq.FileMetaData) -> str:
    """Return the statistics of a Parquet file as its action has them, from the file's own."""
    found: dict[str, Any] = {"numRecords": metadata.num_rows, "minValues": {}, "maxValues": {}, "nullCount": {}}
    for i in range(metadata.num_columns if metadata.num_row_groups else 0):
        columns = [metadata.row_group(group).column(i) for group in range(metadata.num_row_groups)]
        if (name := columns[0].path_in_schema) not in HASHES:
            continue
        of_groups = [column.statistics for column in columns]
        if not all(each is not None and each.has_null_count for each in of_groups):
            continue
        found["nullCount"][name] = sum(each.null_count for each in of_groups)
        if bounded := [each for each in of_groups if each.has_min_max]:
            found["minValues"][name] = min(each.min for each in bounded)
            found["maxValues"][name] = max(each.max for each in bounded)
    return json.dumps(found)


def add_action(file: DataFile, stats: str, data_change: bool = True) -> Action:
    """Return the action that adds a file; without `data_change` its rows are those of files removed beside it."""
    action = {
        "path": quote(file.name),
        "partitionValues": {},
        "size": file.size,
        "modificationTime": file.written,
        "dataChange": data_change,
        "stats": stats,
        "tags": {CRC: str(file.crc32c)},
    }
    return {"add": action}


def remove_action(file: DataFile, data_change: bool = True) -> Action:
    """Return the action that removes a file from the versions to come."""
    action = {
        "path": quote(file.name),
        "deletionTimestamp": now(),
        "dataChange": data_change,
        "extendedFileMetadata": True,
        "partitionValues": {},
        "size": file.size,
    }
    return {"remove": action}


def entry_of(actions: Sequence[Action], keys: Iterable[str], checksums: Mapping[str, int]) -> bytes:
    """Return an entry of the log.

    Args:
        actions: what it adds and removes.
        keys: of two entries that share one, the second clashes.
        checksums: CRC-32C of the files added, kept in the entry.
    """
    changes = any(action["dataChange"] for each in actions for action in each.values())
    info = {
        "timestamp": now(),
        "operation": "WRITE" if changes or not actions else "OPTIMIZE",
        "operationParameters": {"mode": "Append"} if changes or not actions else {},
        "engineInfo": "llmdiff",
        CHECKSUMS: json.dumps(dict(checksums)),
    }
    transactions = [{"txn": {"appId": key, "version": 1, "lastUpdated": now()}} for key in keys]
    return "\n".join(map(json.dumps, [{"commitInfo": info}, *transactions, *actions])).encode()


def parse_entry(data: bytes) -> list[Action]:
    """Return the lines of an entry; ValueError where it is none."""
    try:
        actions = [json.loads(line) for line in data.splitlines()]
    except RecursionError:
        raise ValueError("expected lines of JSON, found values in values without end") from None
    if not actions or not all(isinstance(action, dict) for action in actions):
        raise ValueError("expected lines of JSON")
    return actions


def noted_checksums(info: Mapping[str, Any]) -> dict[str, int]:
    """Return the CRC-32C of the files that an entry adds, as its own line says them."""
    noted = json.loads(info.get(CHECKSUMS, "{}"))
    return {name: int(value) for name, value in noted.items()}


def clash(others: Iterable[Action], ours: Iterable[Action]) -> bool:
    """Return whether an entry that came first keeps another one, made without it, from being written."""
    theirs, mine = list(others), list(ours)
    if any("metaData" in action or "protocol" in action for action in theirs):
        return True
    return any(bool(_named(theirs, kind, key) & _named(mine, kind, key)) for kind, key in CLASHES)


CLASHES = (("txn", "appId"), ("remove", "path"))


def check_protocol(action: Action) -> None:
    """Raise ValueError where a table asks for more than is read here."""
    if (found := action.get("minReaderVersion")) != 1:
        raise ValueError(f"expected a Delta table of reader version 1, found {found}")


def file_of(add: Mapping[str, Any]) -> DataFile:
    """Return the file that an action adds."""
    if add.get("deletionVector"):
        raise ValueError(f"expected files of whole rows, found {add['path']} with a deletion vector")
    stats = json.loads(add.get("stats") or "{}")
    tags = dict(add.get("tags") or {})
    return DataFile(
        name=file_name(add),
        rows=int(stats.get("numRecords", 0)),
        size=int(add["size"]),
        written=int(add["modificationTime"]),
        crc32c=int(tags[CRC]) if CRC in tags else None,
    )


def file_name(action: Mapping[str, Any]) -> str:
    """Return the name of the file that an action adds or removes."""
    return Path(unquote(action["path"])).name


def entry_name(version: int) -> str:
    """Return the name of a version's entry in the log."""
    return f"{version:020d}.json"


def checkpoint_name(version: int) -> str:
    """Return the name of a version's checkpoint."""
    return f"{version:020d}.checkpoint.parquet"


def now() -> int:
    """Return the time in milliseconds."""
    return int(time.time() * 1000)


def _named(actions: Iterable[Action], kind: str, key: str) -> set[str]:
    return {action[kind][key] for action in actions if kind in action}
