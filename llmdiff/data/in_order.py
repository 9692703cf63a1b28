"""Results of threads, in the order of their items; a bounded number is begun ahead."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, wait
from typing import TypeVar

T = TypeVar("T")
Result = TypeVar("Result")

WAKE_SECONDS = 1.0
"""Most seconds of one wait, before the next one: Ray interrupts a worker without a signal, which ends no wait."""


def in_order(
    start: Callable[[T], Future[Result]],
    items: Iterable[T],
    count: int,
    weigh: Callable[[T], int] = lambda item: 0,
    most: int = 0,
) -> Generator[tuple[T, Result], None, None]:
    """Yield each item with the result of what `start` began for it, in the items' order.

    At most `count` are begun before they are asked for, and of those that `weigh` finds heavy so many that they do not
    weigh more than `most` together. Once the iterator is closed, or a result is an error, which is raised in its place,
    those that wait for a thread are never begun.
    """
    pending: deque[tuple[T, Future[Result]]] = deque()
    weight = 0
    try:
        for item in items:
            pending.append((item, start(item)))
            weight += weigh(item)
            while len(pending) > count or weight > most:
                weight -= weigh(pending[0][0])
                yield first_of(pending)
        while pending:
            yield first_of(pending)
    finally:
        for _, future in pending:
            future.cancel()


def first_of(pending: deque[tuple[T, Future[Result]]]) -> tuple[T, Result]:
    """Return the item that was begun first, and its result once there is one."""
    item, future = pending.popleft()
    while not future.done():
        wait([future], WAKE_SECONDS)
    return item, future.result()
