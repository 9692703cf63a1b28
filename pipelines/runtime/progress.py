"""Progress of a flow: a bar in a terminal; in Prefect's pages an artifact, and lines in the run's log."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from pipelines.runtime.recording import in_a_run, run_logger

if TYPE_CHECKING:
    from uuid import UUID

OFTEN, SELDOM = 3.0, 30.0
"""Seconds between two lines of the log: at least, where another tenth of the work is done, and at most."""
BYTES = "B"
"""The unit of work whose units can't be counted before."""


class Progress:
    """A piece of work that goes on; see `progress`."""

    def __init__(self, what: str, total: int | None, unit: str) -> None:
        self.what, self.total, self.unit = what, total, unit
        self.first, self.done, self.reported, self.note = 0, 0, -1, ""
        self.began = self.reached_at = self.reported_at = time.monotonic()
        self.artifact = make_artifact(what) if in_a_run() else None
        self.root_logger = find_root_logger() if self.artifact is not None else None
        interval = 0.2 if sys.stderr.isatty() else 10.0
        by_worker = "PREFECT__FLOW_RUN_ID" in os.environ  # the log's lines are enough there
        self.bar: tqdm[Any] = tqdm(
            desc=what,
            total=total,
            unit=unit,
            unit_scale=unit == BYTES,
            mininterval=interval,
            dynamic_ncols=True,
            leave=True,
            disable=by_worker,
        )

    def count_from(self, done: int) -> None:
        """Count from work that was done before: the time left follows from the pace from now on."""
        self.bar.reset()
        self.bar.initial = self.bar.n = self.bar.last_print_n = self.first = self.done = done
        self.began = self.reached_at = time.monotonic()

    def reach(self, done: int, note: str = "") -> None:
        """Note how much is done now; `note` stands beside it."""
        self.bar.total = self.total
        self.bar.set_postfix_str(note, refresh=False)
        self.bar.update(done - self.done)
        self.done, self.note, self.reached_at = done, note, time.monotonic()
        if self.is_due():
            self.report()

    def say(self, text: str) -> None:
        """Print a line in the terminal and in the run's log, with the seconds since the work began."""
        text = f"{text} ({time.monotonic() - self.began:.1f} s)"
        if not self.bar.disable:
            self.bar.write(text, file=sys.stderr)
        if self.artifact is not None:
            run_logger().info(text)

    def warn(self, text: str) -> None:
        """Print a warning in the terminal and in the run's log."""
        if not self.bar.disable:
            self.bar.write(f"warning: {text}", file=sys.stderr)
        if self.artifact is not None:
            run_logger().warning(text)

    def is_due(self) -> bool:
        """Return whether it is time for another line of the log."""
        since = time.monotonic() - self.reported_at
        return since >= SELDOM or (since >= OFTEN and self.percent() // 10 > self.percent(self.reported) // 10)

    def report(self) -> None:
        """Report to Prefect, if a flow runs. A server that does not answer is no reason to end the work."""
        if self.artifact is None or self.reported == self.done:
            return
        from httpx import HTTPError
        from prefect.artifacts import update_progress_artifact

        self.reported, self.reported_at = self.done, time.monotonic()
        line = self.line()
        run_logger().info(line)
        if self.root_logger is not None:
            self.root_logger.info(line)
        with suppress(HTTPError):
            update_progress_artifact(self.artifact, self.percent(), line)

    def percent(self, done: int | None = None) -> float:
        """Return how much is done, from 0 to 100; 0 where nobody knows how much there is to do."""
        return min(100.0, 100 * max(0, self.done if done is None else done) / self.total) if self.total else 0.0

    def amount(self, count: float) -> str:
        """Return a number of units in words, without the unit's name unless it is bytes."""
        return f"{tqdm.format_sizeof(count)}B" if self.unit == BYTES else str(count)

    def line(self) -> str:
        """Return the whole state of the work in words."""
        of = f" of {self.amount(self.total)}" if self.total else ""
        unit = "" if self.unit == BYTES else f" {self.unit}s"
        parts = [f"{self.what}: {self.amount(self.done)}{of}{unit}" + f" ({self.percent():.0f} %)" * bool(self.total)]
        pace = (self.done - self.first) / max(1e-9, self.reached_at - self.began)
        if pace > 0:
            parts.append(f"{self.amount(pace) if self.unit == BYTES else f'{pace:.3g}'} a second")
        if pace > 0 and self.total and self.done < self.total:
            parts.append(f"{tqdm.format_interval((self.total - self.done) / pace)} left")
        return ", ".join([*parts, self.note] if self.note else parts)


_current: ContextVar[Progress | None] = ContextVar("progress", default=None)


@contextmanager
def progress(what: str, total: int | None, unit: str) -> Iterator[Progress]:
    """Follow work of a flow, which its tasks advance where they run in the flow's own process.

    On standard error a bar, redrawn in a terminal, a line now and then in a file. In Prefect the artifact
    ``<what>-progress`` and a line of the log at each tenth of the work, and twice a minute where that takes longer.

    Args:
        what: in a word.
        total: of units; None where that is not known yet.
        unit: in the singular, or `BYTES`.
    """
    work = Progress(what, total, unit)
    token = _current.set(work)
    try:
        yield work
        work.report()
    finally:
        _current.reset(token)
        work.bar.close()


def advance(count: int, in_bytes: bool = False) -> None:
    """Note that so much more of the current work is done; do nothing where there is none (elsewhere, in a test).

    Nor where the work is counted in bytes and this is not, or the other way round. What is tried again counts twice,
    but never past the total.
    """
    work = _current.get()
    if work is not None and in_bytes == (work.unit == BYTES):
        done = work.done + count
        work.reach(done if work.total is None else min(done, work.total))


def say(text: str) -> None:
    """Print a line of the current work, see `Progress.say`; do nothing where there is none."""
    if (work := _current.get()) is not None:
        work.say(text)


def make_artifact(what: str) -> UUID:
    """Make a progress artifact at 0 %."""
    from prefect.artifacts import create_progress_artifact

    key = re.sub(r"[^a-z0-9]+", "-", f"{what}-progress".lower())
    return create_progress_artifact(0.0, key=key, description=what)  # type: ignore[return-value]


def find_root_logger() -> Any:
    """Return the logger of the run that somebody started and may watch, where this one is a part of it; else None."""
    from uuid import UUID

    from prefect.client.orchestration import get_client
    from prefect.logging.loggers import flow_run_logger
    from prefect.runtime import flow_run

    root = flow_run.root_flow_run_id
    if root == flow_run.id:
        return None
    with get_client(sync_client=True) as client:
        return flow_run_logger(client.read_flow_run(UUID(root)))


def quieten_loading() -> None:
    """Silence progress bars of transformers and diffusers, which would break the flow's own, and the hub's warnings."""
    import warnings

    import diffusers.utils.logging
    import transformers.utils.logging

    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", module="huggingface_hub")  # about arguments that diffusers still gives it
