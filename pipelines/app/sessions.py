"""What belongs to one person at the page: whether a drawing is to stop, and errors in one line."""

from __future__ import annotations

import functools
import html
import threading
from collections.abc import Callable
from typing import Any

import gradio as gr

from pipelines.app.drawing import StoppedError
from pipelines.runtime.error_line import error_line


class Stops:
    """A flag for each drawing of a session: the one at work, and those that wait for the models."""

    def __init__(self) -> None:
        self._at_work: dict[str, threading.Event] = {}
        self._waiting: dict[str, list[threading.Event]] = {}

    def ask(self, session: str | None) -> None:
        """Note that a session asked for a drawing, which waits until it begins."""
        self._waiting.setdefault(session or "", []).append(threading.Event())

    def begin(self, session: str | None) -> threading.Event:
        """Return the flag of a drawing that begins, the first of those asked for; `stop` of its session sets it."""
        first, *others = self._waiting.pop(session or "", None) or [threading.Event()]
        if others:
            self._waiting[session or ""] = others
        self._at_work[session or ""] = first
        return first

    def stop(self, session: str | None) -> None:
        """Stop what a session draws, and what it waits for."""
        if (at_work := self._at_work.get(session or "")) is not None:
            at_work.set()
        for waiting in self._waiting.get(session or "", []):
            waiting.set()

    def on_ask(self, request: gr.Request) -> None:
        """Note that the session of a request asked for a drawing."""
        self.ask(request.session_hash)

    def on_stop(self, request: gr.Request) -> None:
        """Stop what the session of a request draws."""
        self.stop(request.session_hash)

    def on_close(self, request: gr.Request) -> None:
        """Stop what a session draws whose page was closed."""
        self.stop(request.session_hash)
        self._at_work.pop(request.session_hash or "", None)


def shown(action: Callable[..., Any]) -> Callable[..., Any]:
    """Return an action of the page whose errors are the command line's own, as text: a toast takes markup."""

    @functools.wraps(action)
    def act(*args: Any, **kwargs: Any) -> Any:
        try:
            return action(*args, **kwargs)
        except StoppedError:
            gr.Info("Stopped: nothing more is drawn.")
            return gr.skip()  # leave all outputs as they are
        except Exception as error:
            raise gr.Error(html.escape(error_line(error)), print_exception=False) from error

    return act
