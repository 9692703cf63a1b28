"""The list that img2dataset leaves with each shard: which addresses it did not get, and why."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from llmdiff.data.rejects import BadRow
from llmdiff.data.remote import DataPath
from llmdiff.data.remote.http import without_secrets
from llmdiff.data.sources.limits import MAX_TEXT_BYTES
from llmdiff.data.sources.opening import arrow_source
from llmdiff.data.sources.rows import CAPTION_COLUMNS, URL_COLUMNS, column

STATUS, SUCCESS, MESSAGE = "status", "success", "error_message"
STATUS_COLUMNS = (STATUS, MESSAGE, "url")
"""Columns of img2dataset's list: if a table has all of them, each row says what became of its picture."""
ROWS_AT_A_TIME = 4
"""Rows that are read at a time: few, for a file of kilobytes may hold cells of gigabytes."""
MAGIC = b"PAR1"
"""First bytes of a Parquet file."""


def is_list(table: DataPath) -> bool:
    """Return whether a Parquet file is such a list; a damaged one counts as one, and its shard says what is wrong."""
    try:
        with pq.ParquetFile(arrow_source(table)) as file:
            return STATUS in file.schema_arrow.names
    except ConnectionError:
        raise
    except (pa.ArrowException, OSError):
        return True


def failed_rows(table: DataPath) -> Iterator[tuple[BadRow, Any]]:
    """Yield, for each row whose status is no success, why its picture is missing, and its caption.

    Yield nothing where the file is missing or no list of img2dataset's; a row that says so where it is damaged.
    """
    if not _is_there(table):
        return
    try:
        with pq.ParquetFile(arrow_source(table)) as file:
            names = file.schema_arrow.names
            if STATUS not in names:
                return
            known = (STATUS, MESSAGE, column(names, URL_COLUMNS), column(names, CAPTION_COLUMNS))
            for rows in file.iter_batches(ROWS_AT_A_TIME, columns=[name for name in known if name in names]):
                yield from map(
                    _failed, rows.filter(pc.fill_null(pc.not_equal(rows[STATUS], SUCCESS), True)).to_pylist()
                )
    except ConnectionError:
        raise
    except (pa.ArrowException, OSError) as error:
        damaged = BadRow("broken_metadata", f"{table.name}: expected img2dataset's list, a Parquet file: {error}")
        yield damaged, damaged


def failed_rows_of(folder: DataPath) -> Iterator[tuple[BadRow, Any]]:
    """Yield `failed_rows` of the list beside a folder of pictures; the folder's name may have dots in it."""
    if folder.name in ("", ".."):
        folder = folder.resolve()
    if folder.name:
        yield from failed_rows(folder.with_name(f"{folder.name}.parquet"))


def why_failed(row: dict[str, Any]) -> BadRow | None:
    """Return why img2dataset has no picture of a row; None where it has."""
    return None if row[STATUS] == SUCCESS else _why(row)


def _why(row: dict[str, Any]) -> BadRow:
    url = without_secrets(str(row.get(column(row, URL_COLUMNS) or "") or "no URL"))
    return BadRow("not_fetched", f"{url}: img2dataset says {row[STATUS]}: {row.get(MESSAGE) or 'no reason'}")


def _failed(row: dict[str, Any]) -> tuple[BadRow, Any]:
    caption = row.get(column(row, CAPTION_COLUMNS) or "")
    is_long = isinstance(caption, str) and len(caption) > MAX_TEXT_BYTES  # too long to be of use
    return _why(row), None if is_long else caption


def _is_there(table: DataPath) -> bool:
    """Return whether there is such a file.

    A web server may answer a request for an unknown name with any error, or with a page. So a file on one whose address
    was not given counts as there only if it begins as Parquet does.
    """
    if isinstance(table, Path) or table.place.can_list or table.parent.holds(table.name):
        return table.is_file()
    try:
        return table.place.read(table.key, 0, len(MAGIC), "") == MAGIC
    except (OSError, ValueError):
        return False
