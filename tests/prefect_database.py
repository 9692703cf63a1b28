"""The tables of Prefect's database: a server that makes them takes five seconds of processor time for it."""

from __future__ import annotations

import fcntl
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

NAME = "prefect.db"


def start_with_tables(database: Path, factory: pytest.TempPathFactory, start: Callable[[], None]) -> None:
    """Start a Prefect server on an empty database; the first of all test processes makes the tables, others copy them.

    Args:
        database: SQLite file that the server will use, not there yet.
        factory: says where all test processes of a session have their folders.
        start: returns once the server answers.
    """
    tables = _shared(factory) / NAME
    with tables.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not tables.exists():
            start()
            half = tables.with_suffix(".half")
            with closing(sqlite3.connect(database)) as made, closing(sqlite3.connect(half)) as copy:
                made.backup(copy)
            half.rename(tables)
            return
    copy_tables(database, factory)
    start()


def copy_tables(database: Path, factory: pytest.TempPathFactory) -> None:
    """Copy an empty database with its tables, if there is one yet."""
    tables = _shared(factory) / NAME
    if tables.exists():
        database.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(tables, database)


def _shared(factory: pytest.TempPathFactory) -> Path:
    own = factory.getbasetemp()
    return own.parent if own.name.startswith("popen-") else own
