"""Where a share of something grows past all of it."""

from __future__ import annotations

import math
from collections.abc import Callable

FROM, NEVER = 1.0, 1e15


def crossing(share: Callable[[float], float]) -> float:
    """Return where a growing share of what there is reaches all of it."""
    low, high = FROM, NEVER
    while high / low > 1.001:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if share(middle) < 1 else (low, middle)
    return high
