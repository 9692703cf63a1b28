"""How many made-up inputs a property is tried on."""

from __future__ import annotations

import os


def examples(count: int) -> int:
    """Return the number for Hypothesis: all of them, but a third where a run shall be fast (`make test-fast`)."""
    return -(-count // 3) if os.environ.get("LLMDIFF_FAST") else count
