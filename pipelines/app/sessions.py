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
    """A flag for the drawing of each session."""

    def __init__(self) -> None:
        self._flags: dict[str, threading.Event] = {}

    def begin(self, session: str | None) -> threading.Event:
        """Return the flag of a drawing that begins; `stop` of its session sets it."""
        flag = self._flags[session or ""] = threading.Event()
        return flag

    def stop(self, session: str | None) -> None:
        """Stop what a session draws, if it draws."""
        if (flag := self._flags.get(session or "")) is not None:
            flag.set()

    def on_stop(self, request: gr.Request) -> None:
        """Stop what the session of a request draws."""
        self.stop(request.session_hash)

    def on_close(self, request: gr.Request) -> None:
        """Stop what a session draws whose page was closed."""
        self.stop(request.session_hash)
        self._flags.pop(request.session_hash or "", None)


def shown(action: Callable[..., Any]) -> Callable[..., Any]:
    """Return an action of the page whose errors are the command line's own, as text: a toast takes markup."""

    @functools.wraps(action)
    def act(*args: Any, **kwargs: Any) -> Any:
        try:
            return action(*args, **kwargs)
        except StoppedError:
            gr.Info("Stopped: nothing more is drawn.")
            return gr.skip()  # of all outputs
        except Exception as error:
            raise gr.Error(html.escape(error_line(error)), print_exception=False) from error

    return act
