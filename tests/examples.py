"""How much is tried where a run shall be fast (`make test-fast`): a third of what is many and alike."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")

EVERY = 3 if os.environ.get("LLMDIFF_FAST") else 1
"""One in so many examples is tried."""


def examples(count: int) -> int:
    """Return how many made-up inputs a property is tried on: of so many."""
    return -(-count // EVERY)


def some(cases: Sequence[T]) -> list[T]:
    """Return which of the cases are tried, in their order: the last one, and others as far apart as can be."""
    return list(cases)[::-EVERY][::-1]
