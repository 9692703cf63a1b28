"""Processes that end with the one that started them, however that ended: it holds the other end of their input."""

from __future__ import annotations

import os
import signal
import threading
import time


def end_with_input(grace: float | None = None) -> None:
    """Send this process a SIGTERM once its standard input is closed, and end it after `grace` seconds if it is given.

    What a killed process had open is closed for it; so nothing needs to be said, and nothing can be left unsaid.
    """
    threading.Thread(target=_wait_and_end, args=(grace,), daemon=True).start()


def _wait_and_end(grace: float | None) -> None:
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    if grace is not None:
        time.sleep(grace)
        os._exit(1)
