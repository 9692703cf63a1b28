"""How our own programs start: most of the time goes to imports of torch and its like."""

from __future__ import annotations

import gc

SELDOM = 100_000, 50, 100
"""Python's own are 700, 10 and 10."""


def collect_seldom() -> None:
    """Have garbage collection look at new objects seldom: modules stay, and importing them takes a quarter less time.

    A program calls this when it starts; a library leaves the choice to the program.
    """
    gc.set_threshold(*SELDOM)
