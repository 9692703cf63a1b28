"""Keep a folder to one run at a time."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from storage.io.files import lock_now

PATIENCE = 75.0
"""Seconds that a run waits for another one to leave its folder: one that was ended may save for a minute."""


@contextmanager
def locked(output: str | os.PathLike[str], name: str = "lock") -> Iterator[None]:
    """Keep a run's folder for this process; the kernel releases it however the process ends.

    Args:
        output: the folder.
        name: name of the lock's file: training processes have one, and the process that starts them another.

    Raises:
        ValueError: another process has it.
    """
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / name).open("a+") as file:
        deadline, told = time.monotonic() + PATIENCE, False
        while not lock_now(file.fileno()):
            file.seek(0)
            other = f"another run is writing here: {file.read().strip()}"
            if time.monotonic() > deadline:
                raise ValueError(f"{folder}: {other}")
            if not told:
                print(f"{folder}: {other}; waiting up to {PATIENCE:.0f} s for its end", file=sys.stderr)
                told = True
            time.sleep(0.2)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield
