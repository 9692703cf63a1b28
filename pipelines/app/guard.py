"""Closes the page to pages of other origins and to names that are not this machine's (DNS rebinding)."""

from __future__ import annotations

import ipaddress
import os
import socket
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse

ALLOWED_HOSTS = "ALLOWED_HOSTS"
"""Variable of names, separated by commas, under which the page may be asked besides."""


class Guard:
    """Refuses requests under a foreign name, and those that a page of another origin makes.

    An address in numbers is let through: only a name can be made to lead somewhere else.
    """

    def __init__(self, app: Any, hosts: frozenset[str]) -> None:
        self.app = app
        self.hosts = hosts

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        refusal = self.refusal(Headers(scope=scope)) if scope["type"] in ("http", "websocket") else None
        answer = self.app if refusal is None else PlainTextResponse(refusal, status_code=403)
        await answer(scope, receive, send)

    def refusal(self, headers: Headers) -> str | None:
        """Return why a request is refused; None where it is not."""
        host, origin = headers.get("host", ""), headers.get("origin")
        name = urlsplit(f"//{host}").hostname or ""
        if not (is_address(name) or name in self.hosts):
            return f"refused: asked as {host!r}; {ALLOWED_HOSTS} can name it"
        if origin is not None and urlsplit(origin).netloc != host:
            return f"refused: asked by a page of {origin}"
        return None


def own_names() -> frozenset[str]:
    """Return this machine's names, and those that the user gives."""
    given = [name.strip().lower() for name in os.environ.get(ALLOWED_HOSTS, "").split(",")]
    return frozenset(("localhost", socket.gethostname().lower(), *filter(None, given)))


def is_address(name: str) -> bool:
    """Return whether this is an address in numbers."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
