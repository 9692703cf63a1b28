"""The three kinds of tests, told apart by what a test starts, and the watch that keeps a unit test to its word.

A test is a `service` test when one of its fixtures starts a server, a `process` test when one of them starts another
process, and what its mark says when it starts something itself. A training run counts as a process: DeepSpeed's engine
joins a group of ranks, of which the first listens at a port. All others are `unit` tests and may start nothing.
"""

from __future__ import annotations

import functools
import multiprocessing.process
import os
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from llmdiff.process import tcp_ports

KINDS = ("unit", "process", "service")
SERVER_FIXTURES = frozenset({"cluster", "database", "http_server", "hub_server", "s3_server", "server", "service"})
PROCESS_FIXTURES = frozenset({"hosts", "small_disk", "stopped_run", "two_process_run"})
SHARED = (
    *("service", "deployed", "server", "two_process_run", "stopped_run", "s3_server", "legacy_commands"),
    "empty_tracking",
)
"""Session fixtures that take long to make: one pytest-xdist worker runs all tests that share one."""
LONGEST = (
    *("server", "deployed", "service", "second server", "two_process_run", "legacy_commands"),
    *("stopped_run", "test_overfit", "empty_tracking", "test_power_loss", "torch.compile"),
)
"""The groups and modules that come first, for they take longest."""

ROOT = Path(__file__).resolve().parents[1]
STARTS = (
    *((os, name) for name in ("fork", "forkpty", "posix_spawn", "posix_spawnp", "system")),
    (multiprocessing.process.BaseProcess, "start"),
    (subprocess.Popen, "__init__"),
    (socket.socket, "bind"),
)
"""What starts a process or a server. An audit hook would see as much, and be called for each `id()` and import too."""
PORT_PROBES = (tcp_ports.__file__, "urllib3/util/connection.py")
"""What looks for a free port, and what asks when it is imported whether there is IPv6."""
PROBES = ("cc", "clang", "uname", "file")
"""How the programs end that DeepSpeed and Prefect ask about the machine when they are first used."""
_started: list[str] | None = None
"""What the unit test at work has started; None while something else is at work."""


@functools.cache
def kind_of(item: pytest.Item) -> str:
    """Return the kind of a test, or raise UsageError where its mark and its fixtures contradict each other."""
    fixtures = fixtures_of(item)
    found = {name for name in KINDS if item.get_closest_marker(name)}
    if fixtures & SERVER_FIXTURES:
        found.add("service")
    elif fixtures & PROCESS_FIXTURES:
        found.add("process")
    if len(found) > 1:
        raise pytest.UsageError(f"{item.nodeid}: expected one kind, found {' and '.join(sorted(found))}")
    return found.pop() if found else "unit"


@functools.cache
def group_of(item: pytest.Item) -> str | None:
    """Return the group of tests that one pytest-xdist worker runs; None for a test that any worker may run.

    A module may name its own, and have a server of its own with it: the longest group is what all others wait for. A
    module's unit tests are a group: its fixtures are made once, and what it alone imports is imported once.
    """
    if (own := item.get_closest_marker("xdist_group")) is not None:
        return str(own.args[0])
    fixtures = fixtures_of(item)
    shared = next((name for name in SHARED if name in fixtures), None)
    if shared is None and kind_of(item) == "unit":
        return f"{item.path.parent.name}/{item.path.stem}"
    return shared


def end_servers(item: pytest.Item, following: pytest.Item | None) -> None:
    """End the session's servers after the last test of a group: they take time of the cores while nobody asks them.

    Where a later group of the same process needs one, its fixture makes it anew.
    """
    group = group_of(item)
    if group is None or following is None or group_of(following) == group:
        return
    found = item.session._fixturemanager._arg2fixturedefs
    for fixture in (fixture for name in SERVER_FIXTURES for fixture in found.get(name, ())):
        if fixture.scope == "session":
            fixture.finish(item._request)  # type: ignore[attr-defined]


def fixtures_of(item: pytest.Item) -> set[str]:
    return set(getattr(item, "fixturenames", ()))


def longest_first(item: pytest.Item) -> tuple[int, int, str]:
    """Order tests so that all workers end together: long groups, services, processes, at last what takes no time.

    A group's tests follow one another in one process, too, for its servers end with the last of them.
    """
    group = group_of(item) or ""
    found = [LONGEST.index(name) for name in (group, item.path.stem) if name in LONGEST]
    return min(found, default=len(LONGEST)), -KINDS.index(kind_of(item)), group


@contextmanager
def nothing_started(item: pytest.Item) -> Iterator[None]:
    """Fail a unit test that started a process or a server in this block."""
    global _started
    if item.get_closest_marker("unit") is None:
        yield
        return
    _started = []
    try:
        yield
    finally:
        found, _started = _started, None
    if found:
        pytest.fail(f"expected a unit test to start nothing, found {'; '.join(found)}: see tests/kinds.py", False)


def note_starts() -> None:
    """Note from now on what this process starts while a unit test is at work."""
    for owner, name in STARTS:
        setattr(owner, name, _noting(getattr(owner, name), f"{owner.__name__}.{name}"))


def note_engines() -> None:
    """Note from now on each training run of this process, if any test imported what one needs."""
    distributed = sys.modules.get("llmdiff.training.distributed")
    if distributed is None:
        return
    join = distributed.join

    def join_and_note() -> None:
        _note("a rank of a training run")
        join()

    distributed.join = join_and_note  # type: ignore[attr-defined]


def _noting(start: Callable[..., Any], what: str) -> Callable[..., Any]:
    @functools.wraps(start)
    def note_and_start(*arguments: Any, **options: Any) -> Any:
        if _started is not None and not _is_probe(what, arguments, options):
            _note(f"{what}{arguments[1:2]}")
        return start(*arguments, **options)

    return note_and_start


def _is_probe(what: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> bool:
    if what == "socket.bind":
        return sys._getframe(2).f_code.co_filename.endswith(PORT_PROBES)  # nothing ever listens there
    if what == "Popen.__init__":
        command = arguments[1] if len(arguments) > 1 else options["args"]
        return str(command if isinstance(command, (str, os.PathLike)) else command[0]).endswith(PROBES)
    return False


def _note(what: str) -> None:
    if _started is None:
        return
    lines = [frame for frame in traceback.extract_stack() if Path(frame.filename).is_relative_to(ROOT)]
    lines = [frame for frame in lines if ".venv" not in frame.filename and frame.filename != __file__]
    place = f" at {Path(lines[-1].filename).relative_to(ROOT)}:{lines[-1].lineno}" if lines else ""
    _started.append(f"{what}{place}")
