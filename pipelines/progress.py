"""One progress bar for a flow, which its tasks advance where they run in the flow's own process."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any
from uuid import UUID

from tqdm import tqdm

_current: ContextVar[tqdm[Any] | None] = ContextVar("progress", default=None)


@contextmanager
def progress(what: str, total: int | None, unit: str) -> Iterator[tqdm[Any]]:
    """A bar on standard error: redrawn in a terminal, a line now and then in a log."""
    interval = 0.2 if sys.stderr.isatty() else 10.0
    with tqdm(desc=what, total=total, unit=unit, mininterval=interval, dynamic_ncols=True, leave=True) as bar:
        token = _current.set(bar)
        try:
            yield bar
        finally:
            _current.reset(token)


def advance(count: int) -> None:
    """Moves the current bar; does nothing where there is none (a task on another machine, a test)."""
    bar = _current.get()
    if bar is not None:
        bar.update(count)


@contextmanager
def progress_artifact(key: str, description: str) -> Iterator[Callable[[], None]]:
    """A bar in the Prefect UI; the function that is given shows there how far the current one is."""
    from prefect.artifacts import create_progress_artifact, update_progress_artifact

    artifact = create_progress_artifact(0.0, key=key, description=description)
    assert isinstance(artifact, UUID)  # no coroutine, outside of async code

    def show() -> None:
        bar = _current.get()
        if bar is not None:
            update_progress_artifact(artifact, progress=min(100.0, 100 * bar.n / max(1, bar.total or 0)))

    yield show


def quieten_loading() -> None:
    """No bars of transformers and diffusers while models load: they would break the flow's own; nor their quarrels."""
    import warnings

    import diffusers.utils.logging
    import transformers.utils.logging

    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", module="huggingface_hub")  # of arguments that diffusers still gives it
