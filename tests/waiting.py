"""Waiting for what another process does."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable


def wait_until(
    true: Callable[[], bool], seconds: float = 240, child: subprocess.Popen[str] | None = None, interval: float = 0.1
) -> None:
    """Return when `true()` holds; fail after some seconds, or as soon as the child that it depends on has ended."""
    deadline = time.monotonic() + seconds
    while not true():
        assert child is None or child.poll() is None, child.communicate()[0]
        assert time.monotonic() < deadline, f"not so after {seconds} s"
        time.sleep(interval)
