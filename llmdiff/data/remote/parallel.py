"""Many small files of another place, several on their way at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

AT_ONCE = 16
"""Files on their way, and so in memory besides the one in use."""


def each(function: Callable[[Item], Result], items: Iterable[Item], remote: bool) -> Iterator[Result]:
    """Give a function's results in the order of the items; where they are remote, of several at once, ahead."""
    if not remote:
        yield from map(function, items)
        return
    waiting: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="remote-files")
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= AT_ONCE:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
