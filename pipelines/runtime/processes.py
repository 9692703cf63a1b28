"""An encode run's tasks in several processes of this machine, one a GPU, through Prefect's process pool."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from inspect import signature
from itertools import islice
from threading import Thread
from typing import TYPE_CHECKING, Any, TypeVar

from llmdiff.process.startup import start_lightly
from pipelines.runtime.stage import StageTask

if TYPE_CHECKING:
    from prefect.task_runners import ProcessPoolTaskRunner

T = TypeVar("T")

GRACE_SECONDS = 60.0
"""Seconds that the processes of a run that ends may take to remove what they had half-written."""
ORPHAN_SECONDS = 4.0
"""Seconds that they may take where the run's process is gone: the next writer removes what is left after that."""
LOOK_SECONDS = 0.1
"""Seconds between two looks at which tasks have ended."""


class Interrupted(Exception):
    """The run that a process works for has ended: no `KeyboardInterrupt`, which would end the pool's own thread."""


@dataclass
class OnProcesses:
    """Workers in processes of this machine, each with one task at a time; none waits in a queue behind it."""

    runner: ProcessPoolTaskRunner
    count: int
    waiting: dict[Any, Any] = field(default_factory=dict)
    """Items by their tasks' futures."""

    def __call__(
        self, task: StageTask[..., Any], job: Any, items: Iterable[T]
    ) -> Iterator[tuple[T, Callable[[], Any]]]:
        left = iter(items)
        while True:
            for item in islice(left, self.count - len(self.waiting)):
                parameters = dict(signature(task.fn).bind(job, item).arguments)
                with interrupts_blocked():
                    future = self.runner.submit(task.recorded, parameters)
                self.waiting[future] = item
            if not self.waiting:
                return
            done = [future for future in self.waiting if future.wrapped_future.done()]
            for future in done:
                item = self.waiting.pop(future)
                yield item, partial(result_of, future, getattr(item, "name", task.name))
            if not done:
                time.sleep(LOOK_SECONDS)


@contextmanager
def processes(count: int) -> Iterator[OnProcesses]:
    """Start processes that run tasks; at the end of the block interrupt those at work, and wait until all are gone."""
    from prefect.task_runners import ProcessPoolTaskRunner

    spawn = multiprocessing.get_context("spawn")
    pids, ended = spawn.Array("l", count), spawn.Event()
    runner = ProcessPoolTaskRunner(max_workers=count, initializer=begin, initargs=(pids, ended))
    with runner:
        on = OnProcesses(runner, count)
        try:
            yield on
        finally:
            ended.set()  # for one that has yet to begin
            if on.waiting:
                begun = [pid for pid in pids[:] if pid]
                interrupt(begun)
                Thread(target=kill_late, args=(begun,), daemon=True).start()


@contextmanager
def interrupts_blocked() -> Iterator[None]:
    """Block SIGINT in this thread, and in the threads and processes started in it: `begin` lets it through again.

    A terminal's Ctrl-C would break off a new process's imports, whose traceback tells nobody anything.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def result_of(future: Any, name: str) -> Any:
    """Return a task's result; raise RuntimeError with its name where a process died."""
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise RuntimeError(f"{name}: one of the run's processes died; the same command goes on ({error})") from error


def interrupt(pids: Iterable[int]) -> None:
    """Interrupt processes that `begin` made ready for it."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGINT)


def kill_late(pids: list[int]) -> None:
    """Kill processes that are not gone in time; what they leave, the next writer removes."""
    children = [child for child in multiprocessing.active_children() if child.pid in pids]
    end = time.monotonic() + GRACE_SECONDS
    for child in children:
        child.join(max(0.0, end - time.monotonic()))
        child.kill()


# In a process of the pool

_number: int | None = None
_ended: Any = None
_interrupted = False


def begin(pids: Any, ended: Any) -> None:
    """Make a new process one of a run's: with a number of its own, and out of the terminal's reach."""
    global _number, _ended
    _ended = ended
    signal.signal(signal.SIGINT, _on_interrupt)  # before the run's process knows this one's number, and interrupts it
    with pids.get_lock():
        _number = pids[:].index(0)
        pids[_number] = os.getpid()
    os.setsid()  # Ctrl-C reaches the run's process alone, which interrupts the others once
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    Thread(target=_end_with_parent, daemon=True).start()
    start_lightly()


def process_number() -> int | None:
    """Return which of a run's processes this is, from 0; None outside them. `Interrupted` where the run has ended."""
    if _interrupted or (_ended is not None and _ended.is_set()):
        raise Interrupted("the run has ended")
    return _number


def _on_interrupt(number: int, frame: Any) -> None:
    global _interrupted
    from prefect.context import TaskRunContext

    first, _interrupted = not _interrupted, True
    if first and TaskRunContext.get() is not None:  # between two tasks there is nothing to break off
        raise Interrupted("the run has ended")


def _end_with_parent() -> None:
    """Break off, then end, once the run's process is gone, however it went."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    interrupt([os.getpid()])
    time.sleep(ORPHAN_SECONDS)
    os._exit(1)
