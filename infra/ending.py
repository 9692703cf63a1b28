"""How a command ends on Ctrl-C and SIGTERM: within seconds, with all that it started, and a line on how to go on.

The exception that a signal raises unwinds what is at work. A thread sees to it that this takes no longer than it may:
a library may swallow the exception, ask a server that is gone again and again, or wait for something in C. For the
same reasons that thread, and not what the exception unwinds alone, has training processes save their state.
"""

from __future__ import annotations

import atexit
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple, NoReturn

from llmdiff.process.startup import leave

SECONDS = 4.0
"""How long a command may take to end, from the signal on or from where it has saved its state."""
SIGNALS = {signal.SIGINT: "interrupted", signal.SIGTERM: "stopped by SIGTERM"}

_received: list[int] = []
_ended: list[int] = []
"""The exit code."""
_done: list[int] = []
"""The exit code of a command that came to its own end."""
_said: list[str] = []
_sockets: list[socket.socket] = []
"""Both ends, open until the process is gone."""


class _Saving(NamedTuple):
    """What must save its state before the command is gone."""

    asked: Callable[[], bool]
    seconds: float


_saving: list[_Saving] = []


@contextmanager
def well_ended(advice: str) -> Iterator[None]:
    """Have the block end this process on a signal: with exit code 130 or 143, and a line with the advice.

    For the main thread of a program, once.
    """
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    _sockets[:] = reader, writer
    signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)  # written at once, whatever the main thread does
    for number in SIGNALS:
        signal.signal(number, _raise)
    threading.Thread(target=_watch, args=(reader, advice), daemon=True).start()
    atexit.register(_leave)  # the first to be registered is the last to be called
    try:
        yield
        _done.append(0)
    except SystemExit as ended:
        if not _received or ended.code in (None, 0):  # all was done before the signal could break it off
            if ended.code is None or isinstance(ended.code, int):
                _done.append(ended.code or 0)
            raise
        _end(advice)
    except BaseException:
        if not _received:
            raise
        _end(advice)


@contextmanager
def saved_first(asked: Callable[[], bool], seconds: float) -> Iterator[None]:
    """Have a command that ends while the block runs wait until something saved its state; not at a second Ctrl-C.

    Args:
        asked: asks it to end if that was not done yet, and returns whether it is still there; called again and again,
            also from another thread.
        seconds: that it may take.
    """
    _saving.append(saving := _Saving(asked, seconds))
    try:
        yield
    finally:
        _saving.remove(saving)


def exit_if_ending() -> None:
    """Exit where a signal came whose exception was swallowed, as some imports and all finalisers do."""
    if _received:
        sys.exit(128 + _received[0])


def _raise(number: int, _: Any) -> None:
    """Raise what ends the command; a repeated SIGTERM, as of a supervisor, changes nothing."""
    _received.append(number)
    if len(_received) > 1 and number != signal.SIGINT:
        return  # it is ending, and what saves its state goes on
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)


def _end(advice: str) -> NoReturn:
    """Say how to go on, and leave; the watch stays, for what runs at exit."""
    _ended.append(128 + _received[0])
    _say(f"{SIGNALS[signal.Signals(_received[0])]}: {advice}\n")
    raise SystemExit(_ended[0]) from None


def _leave() -> None:
    """Leave with nothing left behind, and without taking modules apart, which takes seconds, in the watch's absence."""
    if _ended:
        _kill_children()
        with suppress(OSError, ValueError):
            sys.stdout.flush()
        os._exit(_ended[0])
    if _done:
        with suppress(OSError, ValueError):  # of which Python tells, as it ends
            sys.stdout.flush()
            leave(_done[0])


def _watch(reader: socket.socket, advice: str) -> None:
    """End this process and all that it started, where a signal did not in time, or at the second Ctrl-C."""
    number = _next_signal(reader)
    began = saved = time.monotonic()
    saving = again = False
    while not again:
        now, before = time.monotonic(), saving
        still = [one.asked() for one in _saving if now < began + one.seconds]
        saving = any(still)
        if saving or before:
            saved = time.monotonic()  # counted from the look that finds it gone, however late that was
        elif now >= saved + SECONDS:
            break
        if saving and now > began + SECONDS:
            _say("saving the state of the run; Ctrl-C again does not wait for it\n")
        reader.settimeout(0.05)
        with suppress(TimeoutError):
            again = _next_signal(reader) == signal.SIGINT
    _kill_children()
    _say(f"\n{SIGNALS[number]}: {advice}\n" if not _ended else "")  # a bar may have left its line open
    os._exit(128 + number)


def _next_signal(reader: socket.socket) -> signal.Signals:
    """Wait for one of `SIGNALS`: others that have a handler are written too."""
    while True:
        number = reader.recv(1)[0]
        if number in SIGNALS:
            return signal.Signals(number)


def _kill_children() -> None:
    """Kill all that this process started, and all that they did."""
    import psutil  # type: ignore[import-untyped]

    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            child.kill()


def _say(line: str) -> None:
    """Print a line once; without Python's own buffers, which the interrupted print may have locked."""
    if line not in _said:
        _said.append(line)
        with suppress(OSError):  # nobody listens any more
            os.write(2, line.encode())
