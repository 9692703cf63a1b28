"""How our own programs start: most of the time goes to imports of torch and its like."""

from __future__ import annotations

import gc
import os

SELDOM = 100_000, 50, 100
"""Python's own are 700, 10 and 10."""


def collect_seldom() -> None:
    """Have garbage collection look at new objects seldom: modules stay, and importing them takes a quarter less time.

    A program calls this when it starts; a library leaves the choice to the program.
    """
    gc.set_threshold(*SELDOM)


def wait_without_spinning() -> None:
    """Have OpenMP's threads sleep while they wait for one another: where other programs use the cores, spinning costs
    three times the processor time of the work itself. A program calls this before it imports torch.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
