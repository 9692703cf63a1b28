"""Fetch many small remote files, several at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from llmdiff.data.in_order import in_order

Item = TypeVar("Item")
Result = TypeVar("Result")

AT_ONCE = 16
"""Files that are fetched at once, and so in memory besides the one in use."""


def each(function: Callable[[Item], Result], items: Iterable[Item], remote: bool) -> Iterator[Result]:
    """Yield a function's results in the order of the items; for remote ones, run several calls at once, ahead.

    Closing the iterator begins no other call; those at work end on their own, after a request's last try at most.
    """
    if not remote:
        yield from map(function, items)
        return
    pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="remote-files")
    try:
        for _, result in in_order(lambda item: pool.submit(function, item), items, AT_ONCE - 1):
            yield result
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
