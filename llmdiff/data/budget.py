"""A budget that threads share: a thread that needs more than is free waits."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class SharedBudget:
    """An amount that threads take parts of for a while; a part that exceeds it counts as all of it."""

    def __init__(self, amount: int) -> None:
        self._amount = amount
        self._free = amount
        self._changed = threading.Condition()

    @contextmanager
    def take(self, amount: int) -> Iterator[None]:
        """Wait until a part is free, then hold it in a ``with`` block."""
        amount = min(amount, self._amount)
        with self._changed:
            self._changed.wait_for(lambda: self._free >= amount)
            self._free -= amount
        try:
            yield
        finally:
            with self._changed:
                self._free += amount
                self._changed.notify_all()
