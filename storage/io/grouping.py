"""Places of equal numbers in an array."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np


def places_by_number(numbers: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yield each number that occurs, and where it does, int64: both ascending."""
    if len(numbers) and numbers[0] == numbers[-1] and (numbers == numbers[0]).all():
        yield int(numbers[0]), np.arange(len(numbers))
        return
    order = np.argsort(numbers, kind="stable")
    ordered = numbers[order]
    edges = [0, *(np.flatnonzero(ordered[1:] != ordered[:-1]) + 1).tolist(), len(numbers)]
    for start, stop in zip(edges, edges[1:], strict=False):
        if stop > start:
            yield int(ordered[start]), order[start:stop]
