"""Whether Prefect records what runs here, and what is told it. Nothing of Prefect is imported where it does not."""

from __future__ import annotations

import logging
import sys
import time
from typing import Any

from infra.servers import prefect_server

logging.getLogger("llmdiff.run").addHandler(logging.NullHandler())  # else Python would print warnings by itself


def recorded() -> bool:
    """Return whether a stage that is called now is recorded: as a part of a recorded run, or by a server that is set.

    Without a server nobody looks at a record, and the engine that keeps it takes longer to start than a picture to
    draw.
    """
    if sys.modules.get("prefect") is None:
        return prefect_server() is not None
    from prefect.settings import PREFECT_API_URL

    return in_a_run() or PREFECT_API_URL.value() is not None


def in_a_run() -> bool:
    """Return whether a recorded flow or one of its tasks runs here. Where Prefect is not imported yet, none does."""
    return flow_run_id() is not None


def flow_run_id() -> str | None:
    """Return the id of the flow's run; None where none is recorded."""
    if sys.modules.get("prefect") is None:
        return None
    from prefect.runtime import flow_run

    return flow_run.id


def run_id() -> str:
    """Return an id that no other run has: that of the flow's run, or one made of the moment."""
    return flow_run_id() or str(time.time_ns())


def run_logger() -> Any:
    """Return the logger of the flow or the task that runs, or one of Python's, whose lines ``--debug`` shows."""
    if not in_a_run():
        return logging.getLogger("llmdiff.run")
    from prefect.logging import get_run_logger

    return get_run_logger()
