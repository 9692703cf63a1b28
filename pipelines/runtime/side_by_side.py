"""Calls side by side in threads, for work that waits for processes or for torch, which both let other threads run."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from contextvars import copy_context
from typing import Any, TypeVar

Result = TypeVar("Result")


def side_by_side(calls: Sequence[Callable[[], Result]]) -> list[Result]:
    """Return the results of calls that take no arguments, each made in a thread of its own, in their order.

    The first error is raised at once. The threads do not keep the program from ending, by Ctrl-C say: training
    processes end when the program that started them does.
    """
    outcomes: queue.SimpleQueue[tuple[int, Any, BaseException | None]] = queue.SimpleQueue()

    def run(number: int, call: Callable[[], Result]) -> None:
        try:
            outcomes.put((number, call(), None))
        except BaseException as error:
            outcomes.put((number, None, error))

    for number, call in enumerate(calls):
        threading.Thread(target=copy_context().run, args=(run, number, call), daemon=True).start()
    results: dict[int, Result] = {}
    while len(results) < len(calls):
        number, result, error = outcomes.get()
        if error is not None:
            raise error
        results[number] = result
    return [results[number] for number in range(len(calls))]
