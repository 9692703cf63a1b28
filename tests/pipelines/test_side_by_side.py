"""Calls side by side: their results in order, the first error, the caller's context."""

from __future__ import annotations

import threading
from contextvars import ContextVar

import pytest

from pipelines.runtime.side_by_side import side_by_side

word: ContextVar[str] = ContextVar("word")


def test_results_come_in_order_from_calls_that_wait_for_one_another() -> None:
    word.set("given")
    meet = threading.Barrier(2, timeout=60)

    def call(number: int) -> tuple[int, str]:
        meet.wait()
        return number, word.get()

    assert side_by_side([lambda: call(0), lambda: call(1)]) == [(0, "given"), (1, "given")]


def test_the_first_error_is_raised_while_others_go_on() -> None:
    end = threading.Event()

    def fail() -> bool:
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        side_by_side([lambda: end.wait(60), fail])
    end.set()
