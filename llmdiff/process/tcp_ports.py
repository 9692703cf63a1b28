"""TCP ports of this machine."""

from __future__ import annotations

import random
import socket

CHOSEN_FROM = range(20_000, 32_000)
"""Ports below those that systems give to connections, which may be taken before a server listens there."""
TRIES = 1000


_kept: list[socket.socket] = []
"""Bound to the ports that were chosen, for as long as this process lives."""


def free_port() -> int:
    """Return a TCP port that nobody uses, and that no other call returns while this process lives; OSError if none.

    A server may listen there if it sets SO_REUSEADDR, as all do that we start.
    """
    for port in random.SystemRandom().sample(CHOSEN_FROM, TRIES):  # seeds fix other processes' choice too
        if (kept := _reserved(port)) is not None:
            _kept.append(kept)
            return port
    raise OSError(f"expected a free TCP port from {CHOSEN_FROM.start} to {CHOSEN_FROM.stop - 1}, found none")


def _reserved(port: int) -> socket.socket | None:
    """Return a socket that is bound to a port under every address; None where another one is."""
    kept = socket.socket()
    try:
        kept.bind(("", port))  # without SO_REUSEADDR: nobody else's, whether it listens or not
    except OSError:
        kept.close()
        return None
    kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # from now on beside a server's
    return kept


def is_free(port: int) -> bool:
    """Return whether a TCP port can be listened on here, under every address."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True
