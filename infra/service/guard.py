"""Prefect's server, closed to pages of other origins: ``python -m infra.service.guard --host HOST --port PORT``.

Prefect has a setting for the origins that may read its answers, but none for the hosts it may be asked under, and a
browser sends some requests without asking first. MLflow's server refuses both by itself.
"""

from __future__ import annotations

import argparse
import ipaddress
import socket
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from infra.environment import hostname
from infra.service.config import ALLOWED_HOSTS, ALLOWED_ORIGINS, allowed_names


class Guard:
    """Refuses requests under a name that is not this machine's, and those that a page of another origin makes.

    An address in numbers is let through: only a name can be made to lead somewhere else (DNS rebinding).
    """

    def __init__(self, app: ASGIApp, hosts: frozenset[str], origins: frozenset[str] = frozenset()) -> None:
        self.app = app
        self.hosts = hosts
        self.origins = origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self.refusal(Headers(scope=scope)) if scope["type"] in ("http", "websocket") else None
        answer = self.app if refusal is None else PlainTextResponse(refusal, status_code=403)
        await answer(scope, receive, send)

    def refusal(self, headers: Headers) -> str | None:
        """Return why a request is refused; None where it is not."""
        host, origin = headers.get("host", ""), headers.get("origin")
        name = hostname(f"//{host}")
        if not (is_address(name) or name in self.hosts):
            return f"refused: asked as {host!r}; {ALLOWED_HOSTS} can name it"
        if origin is not None and place(origin) != host and not self.origins & {origin, "*"}:
            return f"refused: asked by a page of {origin}; {ALLOWED_ORIGINS} can name it"
        return None


def place(origin: str) -> str | None:
    """Return host and port of an Origin header; None where it is no address."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return None


def is_address(name: str) -> bool:
    """Return whether this is an address in numbers."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def own_names() -> frozenset[str]:
    """Return this machine's names, and those that the user gives."""
    return frozenset(("localhost", socket.gethostname().lower(), *allowed_names()))


def main() -> None:
    """Run the server until it is ended."""
    parser = argparse.ArgumentParser(prog="python -m infra.service.guard", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", required=True, type=int)
    options = parser.parse_args()
    import uvicorn
    from prefect.server.api.server import create_app
    from prefect.settings import get_current_settings

    server = get_current_settings().server
    origins = frozenset(origin.strip() for origin in server.api.cors_allowed_origins.split(","))
    uvicorn.run(
        Guard(create_app(final=True), own_names(), origins),
        host=options.host,
        port=options.port,
        timeout_keep_alive=server.api.keepalive_timeout,
        log_level=server.logging_level.lower(),
    )


if __name__ == "__main__":
    main()
