"""The page as a server: where it listens, who may see it."""

from __future__ import annotations

import ipaddress
import os
import sys
from typing import Any

from infra.ending import exit_if_ending
from infra.environment import home
from pipelines.requests.app import AppRequest

LOGIN = "LLMDIFF_APP_LOGIN"
"""Variable that makes the page ask for a login: ``user:password``."""

GRACE = 1
"""Seconds that requests under way get when the page is ended."""


def serve(request: AppRequest) -> None:
    """Serve the page until the process is ended.

    Raises:
        ValueError: the login or the address can't be used, or something else listens there.
    """
    login = read_login()
    check_address(request.host, request.port)
    app = build_app(request, login)
    import uvicorn

    name = "127.0.0.1" if request.host == "0.0.0.0" else request.host
    print(f"The page: http://{name}:{request.port}/ (Ctrl-C ends it)", flush=True)
    warn_of_open_door(request.host, login)
    uvicorn.run(  # which keeps a signal for itself
        app,
        host=request.host,
        port=request.port,
        log_level="warning",
        timeout_graceful_shutdown=GRACE,  # open pages keep a connection each
    )
    exit_if_ending()


def build_app(request: AppRequest, login: tuple[str, str] | None) -> Any:
    """Return the ASGI application: the page behind its guard and its login."""
    folder = home() / "app"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    os.environ["GRADIO_TEMP_DIR"] = str(folder)  # pictures that are shown; not for other users of this machine
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    import gradio as gr
    from fastapi import FastAPI

    from infra.service.guard import Guard, own_names
    from pipelines.app.page import CSS, build_page, theme

    page = build_page(request).queue(api_open=False)
    app = gr.mount_gradio_app(
        FastAPI(openapi_url=None),
        page,
        path="/",
        auth=[login] if login is not None else None,
        footer_links=[],
        max_file_size=0,  # nothing on the page is uploaded
        run_history=False,
        ssr_mode=False,
        theme=theme(),
        css=CSS,
    )
    return Guard(app, own_names())


def read_login() -> tuple[str, str] | None:
    """Return user and password, or None where no login is asked for; ValueError where the variable has no password."""
    text = os.environ.get(LOGIN, "")
    if not text:
        return None
    user, _, password = text.partition(":")
    if not user or not password:
        raise ValueError(f"{LOGIN}: expected user:password, found no {'password' if user else 'user'}")
    return user, password


def check_address(host: str, port: int) -> None:
    """Raise ValueError where the page can't listen there."""
    from infra.service.config import is_free

    try:
        ipaddress.IPv4Address(host)
    except ValueError as error:
        raise ValueError(f"--host: expected an address such as 127.0.0.1 or 0.0.0.0, found {host!r}") from error
    if not is_free(host, port):
        raise ValueError(f"--port: {host}:{port} is taken by something else, or not this machine's: choose another")


def warn_of_open_door(host: str, login: tuple[str, str] | None) -> None:
    """Say that other machines reach the page, and whether it asks them who they are."""
    if ipaddress.IPv4Address(host).is_loopback:
        return
    print(f"The page listens on {host}: other machines reach it", file=sys.stderr)
    if login is None:
        print(
            f"warning: it asks for no login: whoever reaches this machine can see what the store holds and use its "
            f"models. {LOGIN}=<user:password> makes it ask for one",
            file=sys.stderr,
        )
