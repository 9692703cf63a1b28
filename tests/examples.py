"""How much is tried where a run shall be fast (`make test-fast`): a third of what is many and alike.

Of parameters that stand one over the other each value is tried, and not each with each.
"""

from __future__ import annotations

import math
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TypeVar

import pytest

T = TypeVar("T")

FAST = bool(os.environ.get("LLMDIFF_FAST"))
EVERY = 3 if FAST else 1
"""One in so many examples is tried."""


def examples(count: int) -> int:
    """Return how many of `count` made-up inputs a property is tried on."""
    return -(-count // EVERY)


def some(cases: Iterable[T]) -> list[T]:
    """Return which of the cases are tried, in their order: where fast every third, counted back from the last."""
    return list(cases)[::-EVERY][::-1]


def in_turn(items: Sequence[pytest.Function]) -> set[pytest.Function]:
    """Return the items that are tried: of a test's parameters the first values together, the second, and so on.

    Where a parameter has no more values, its first ones follow again, until the last of each was tried.
    """
    tests: defaultdict[str, dict[tuple[str, ...], pytest.Function]] = defaultdict(dict)
    for item in items:
        # `callspec.id` has the values' names joined by hyphens, which are in names too
        names = tuple(item.callspec._idlist) if hasattr(item, "callspec") else ()
        tests[item.nodeid.partition("[")[0]][names] = item
    return {cases[names] for cases in tests.values() for names in turns(list(cases))}


def turns(combinations: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Return which combinations of values are tried, where each of one stands with each of the others."""
    columns = [list(dict.fromkeys(column)) for column in zip(*combinations, strict=True)]
    if math.prod(map(len, columns)) != len(combinations):  # some are missing: chosen by name, or made by a hook
        return list(combinations)
    count = max(map(len, columns), default=1)
    return [tuple(column[i % len(column)] for column in columns) for i in range(count)]
