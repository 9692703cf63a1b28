"""pytest's capture of logs, which looks through all loggers for those apart: six times a test, hundreds of loggers."""

from __future__ import annotations

import functools
import logging
from typing import Any

import _pytest.logging


def look_for_loggers_once() -> None:
    """Have pytest look again only where there are more loggers than before."""
    _pytest.logging.catching_logs = Capture  # type: ignore[misc]


class Capture(_pytest.logging.catching_logs[Any]):
    """Attaches its handler where pytest's own does: to the root, and to loggers that do not propagate to it."""

    def __enter__(self) -> Any:
        if self.level is not None:
            return super().__enter__()
        apart = [logger for logger in loggers_apart(len(logging.root.manager.loggerDict)) if not logger.propagate]
        for logger in (logging.root, *apart):
            logger.addHandler(self.handler)
            self.attached_loggers.append(logger)
        return self.handler


@functools.lru_cache(maxsize=1)
def loggers_apart(count: int) -> list[logging.Logger]:
    """The loggers that do not propagate, among so many."""
    found = logging.root.manager.loggerDict.values()
    return [logger for logger in found if isinstance(logger, logging.Logger) and not logger.propagate]
