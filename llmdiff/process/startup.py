"""Start and end our own programs quickly: most of that time goes to modules of torch and its like."""

from __future__ import annotations

import gc
import logging
import os
import sys
from contextlib import suppress
from typing import NoReturn

from llmdiff.process.spared_imports import spare_imports

SELDOM = 100_000, 50, 100
"""Thresholds of the garbage collector's generations; Python's own are 700, 10 and 10."""


def start_lightly() -> None:
    """Collect garbage seldom, and import less of other packages; a program calls this before it imports torch."""
    collect_seldom()
    spare_imports()


def collect_seldom() -> None:
    """Make garbage collection look at new objects seldom: modules stay, and importing them takes a quarter less time.

    A program calls this when it starts; a library leaves the choice to the program.
    """
    gc.set_threshold(*SELDOM)


def wait_without_spinning() -> None:
    """Make OpenMP's threads sleep while they wait for one another: where other programs use the cores, spinning costs
    three times the processor time of the work itself. A program calls this before it imports torch.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def leave(code: int) -> NoReturn:
    """End a program whose work is done, with an exit code: Python would take every module apart first, for seconds.

    Nothing that was registered to run at exit runs; what is printed or logged is written.
    """
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # the reader is gone
            stream.flush()
    os._exit(code)
