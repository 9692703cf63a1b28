"""TCP ports of this machine."""

from __future__ import annotations

import random
import socket

CHOSEN_FROM = range(20_000, 32_000)
"""Ports below those that systems give to connections, which may be taken before a server listens there."""
TRIES = 1000


def free_port() -> int:
    """Return a TCP port that nobody uses now; OSError where there is none."""
    for port in random.SystemRandom().sample(CHOSEN_FROM, TRIES):  # unseeded: other processes may have the same seed
        if is_free(port):
            return port
    raise OSError(f"expected a free TCP port from {CHOSEN_FROM.start} to {CHOSEN_FROM.stop - 1}, found none")


def is_free(port: int) -> bool:
    """Return whether a TCP port can be listened on here, under every address."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True
