"""One run at a time in a folder."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from storage.io.files import lock_now

PATIENCE = 75.0
"""Seconds that a run waits for another one to leave its folder: one that was ended may save for a minute."""


@contextmanager
def locked(output: str | os.PathLike[str], name: str = "lock") -> Iterator[None]:
    """Keeps a run's folder for this process; the kernel gives it back however the process ends.

    Args:
        output: the folder.
        name: of the lock's file: the training processes have one, and who started them another.

    Raises:
        ValueError: another process has it.
    """
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / name).open("a+") as file:
        deadline = time.monotonic() + PATIENCE
        while not lock_now(file.fileno()):
            if time.monotonic() > deadline:
                file.seek(0)
                raise ValueError(f"{folder}: another run is writing here: {file.read().strip()}")
            time.sleep(0.2)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield
