"""Room that threads share: what takes much of it waits until there is enough."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class SharedBudget:
    """An amount of which threads take parts for a while. What is larger than all of it has it alone."""

    def __init__(self, amount: int) -> None:
        self._amount = amount
        self._free = amount
        self._changed = threading.Condition()

    @contextmanager
    def take(self, amount: int) -> Iterator[None]:
        """Hold a part in a ``with`` block; wait for it before."""
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
