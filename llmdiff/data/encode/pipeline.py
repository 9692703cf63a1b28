"""Stages that work at the same time, each in threads of its own: bounded, in order, and all ended together."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import repeat
from types import TracebackType
from typing import Any, TypeVar

from llmdiff.data.in_order import first_of, in_order

T = TypeVar("T")


def ahead(items: Iterable[T], count: int, name: str) -> Generator[T, None, None]:
    """Yield the items of an iterable, which a thread reads at most `count` items ahead.

    An error of the iterable is raised in the place of its next item. Closing the iterator ends the thread, after the
    item that it is at; so does its end.
    """
    iterator, end = iter(items), object()
    thread = ThreadPoolExecutor(1, name)
    try:
        for _, item in in_order(lambda _: thread.submit(next, iterator, end), repeat(None), count):
            if item is end:
                return
            yield item  # type: ignore[misc] # mypy takes `end` for an item
    finally:
        thread.shutdown(cancel_futures=True)


class Behind:
    """Calls functions one after the other in a thread, while the caller goes on; to be used in a ``with`` block.

    At most `count` calls wait. An exception of one is raised by a later call of this object, or at the end of the
    block. Leaving the block waits for all calls; if an exception left it, only for the one at work: no other begins.
    """

    def __init__(self, count: int, name: str) -> None:
        self.count = count
        self._thread = ThreadPoolExecutor(1, name)
        self._pending: deque[tuple[None, Future[Any]]] = deque()

    def __enter__(self) -> Behind:
        return self

    def __call__(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Queue a call of a function."""
        self._pending.append((None, self._thread.submit(function, *arguments)))
        while len(self._pending) > self.count or (self._pending and self._pending[0][1].done()):
            first_of(self._pending)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            while self._pending and error is None:
                first_of(self._pending)
        finally:
            self._thread.shutdown(cancel_futures=True)
