"""Objects of JSON as rows: cells by their columns' names, and what is there twice told."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from typing import Any

from llmdiff.data.rejects import BadRow
from llmdiff.data.sources.limits import check_text
from llmdiff.data.sources.rows import text

Record = dict[str, Any] | BadRow
"""A row by column, their names in lower case; or why it is none."""


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
    """Values by name; in the place of two of one name stands that there are two, for neither goes before the other."""
    found = dict(pairs)
    if len(found) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        twice = (name for name, count in counts.items() if count > 1)
        found |= {name: BadRow("broken_metadata", f"expected one value named {name}, found several") for name in twice}
    return found
