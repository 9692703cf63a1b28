"""Rows of a run's logs, ``metrics.jsonl`` and ``layout.jsonl``: a line of JSON for each step."""

from __future__ import annotations

import json
from typing import Any


def row_of(line: str | bytes) -> dict[str, Any] | None:
    """Return the row of a line; None for a line without a step, as a power loss or a full disk leaves."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) and type(row.get("step")) is int else None
