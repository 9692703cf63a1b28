"""The Delta Lake library, and what of it no documentation promises.

Everything that could break under another version of delta-rs is here: the words of its errors, the names that it gives
to files of a table, the options that keep it from writing or removing files by itself. `tests/storage/test_delta.py`
pins each against the real library.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, PostCommitHookProperties, Transaction
from deltalake.exceptions import CommitFailedError
from deltalake.transaction import AddAction, RemoveAction

LOST_THE_RACE = ("oncurrent", "Failed to commit transaction: ")
"""In what a commit says that failed because another came first: at once, and after many tries."""
KEEP_HISTORY = {"delta.logRetentionDuration": "interval 36500 days", "delta.enableExpiredLogCleanup": "false"}
NO_HOOKS = PostCommitHookProperties(create_checkpoint=False, cleanup_expired_logs=False)
CHECKSUMS = "checksums"
"""Name of the Parquet files' checksums in an entry of the log."""


def lost_the_race(error: Exception) -> bool:
    """Return whether a commit failed because another one came first: looking again and trying again helps."""
    return isinstance(error, CommitFailedError) and any(words in str(error) for words in LOST_THE_RACE)


def create_table(folder: str, schema: pa.Schema) -> None:
    """Make an empty table that keeps every version; leave one that is there as it is."""
    if DeltaTable.is_deltatable(folder):
        return
    try:
        DeltaTable.create(folder, schema, mode="ignore", configuration=KEEP_HISTORY)
    except CommitFailedError:  # another process made it just now
        DeltaTable(folder)


def file_names(delta: DeltaTable) -> tuple[str, ...]:
    """Return the names of a version's Parquet files in the table's folder, sorted."""
    return tuple(sorted(_name(uri) for uri in delta.file_uris()))


def add_action(file: str, rows: int, size: int) -> AddAction:
    """Return the action that adds a file."""
    return AddAction(file, size, {}, int(time.time() * 1000), True, json.dumps({"numRecords": rows}))


def remove_action(file: str, size: int) -> RemoveAction:
    """Return the action that removes a file from the versions to come."""
    return RemoveAction(file, True, int(time.time() * 1000), size, {})


def write_entry(
    folder: str,
    base: int,
    actions: Sequence[AddAction | RemoveAction],
    schema: pa.Schema,
    keys: Iterable[str],
    checksums: Mapping[str, int],
    **properties: Any,
) -> None:
    """Write one entry of the log; CommitFailedError where an entry after version `base` clashes with it.

    Args:
        folder: the table's.
        base: the version that the entry was made from.
        actions: what it adds and removes.
        schema: the table's.
        keys: of two entries that share one, the second clashes.
        checksums: CRC-32C of the files added, kept in the entry.
        properties: more of delta-rs's `CommitProperties`.
    """
    transactions = [Transaction(key, 1) for key in keys]
    notes = {CHECKSUMS: json.dumps(dict(checksums))}
    DeltaTable(folder, version=base).create_write_transaction(
        list(actions),
        "append",
        schema,
        commit_properties=CommitProperties(notes, app_transactions=transactions, **properties),
        post_commithook_properties=NO_HOOKS,
    )


def entry_name(version: int) -> str:
    """Return the name of a version's entry in the log."""
    return f"{version:020d}.json"


def checkpoint_prefix(version: int) -> str:
    """Return how the names of a version's checkpoint files begin."""
    return f"{version:020d}.checkpoint"


def _name(uri: str) -> str:
    return Path(unquote(urlparse(uri).path) if "://" in uri else uri).name
