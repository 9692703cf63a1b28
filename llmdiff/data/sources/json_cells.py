"""JSON objects as rows of cells by column name; a name that occurs twice is refused."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from typing import Any

from llmdiff.data.rejects import BadRow
from llmdiff.data.sources.limits import check_text
from llmdiff.data.sources.rows import text

Record = dict[str, Any] | BadRow
"""A row's cells by column name in lower case; or why there is no such row."""


def json_record(data: bytes) -> dict[str, Any]:
    """Return a JSON object by lower-case names; BadRow where it is none."""
    check_text(data)
    try:
        record = loads(text(data))
    except BadRow:
        raise
    except (ValueError, RecursionError) as error:
        raise BadRow("broken_metadata", f"expected a JSON object, found {data!r:.80}: {error}") from error
    if not isinstance(record, dict):
        raise BadRow("broken_metadata", f"expected a JSON object, found {data!r:.80}")
    return cells_of(record.items())


def loads(data: str) -> Any:
    """Return what a text of JSON holds; ValueError and RecursionError as of `json.loads`."""
    return json.loads(data, object_pairs_hook=_once)


def cells_of(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Return a row's cells by their columns' names in lower case."""
    return _once([(name.strip().lower(), value) for name, value in pairs])


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return values by name; a BadRow in place of two values of one name, of which neither comes first."""
    found = dict(pairs)
    if len(found) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        twice = (name for name, count in counts.items() if count > 1)
        found |= {name: BadRow("broken_metadata", f"expected one value named {name}, found several") for name in twice}
    return found
