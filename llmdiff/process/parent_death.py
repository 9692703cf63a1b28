"""End a process when its parent dies, in whatever way: the parent holds the other end of its standard input."""

from __future__ import annotations

import os
import signal
import threading
import time


def end_with_input(grace: float | None = None) -> None:
    """Send this process a SIGTERM once its standard input is closed, and end it after `grace` seconds if it is given.

    The system closes what a killed process had open, so the parent needs to send nothing, and can't fail to.
    """
    threading.Thread(target=_wait_and_end, args=(grace,), daemon=True).start()


def _wait_and_end(grace: float | None) -> None:
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    if grace is not None:
        time.sleep(grace)
        os._exit(1)
