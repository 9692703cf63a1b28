"""The command ``llmdiff app``."""

from __future__ import annotations

from typing import Any

import typer

from llmdiff.extras import require
from pipelines.cli.bootstrap import start_engine
from pipelines.cli.options import options_of
from pipelines.requests.app import AppRequest
from pipelines.requests.base import checked

app_app = typer.Typer()


@app_app.command(
    epilog="Example: llmdiff app\n\nExample: LLMDIFF_APP_LOGIN=ada:secret llmdiff app --host 0.0.0.0 --port 8080"
)
@options_of(AppRequest)
def app(given: dict[str, Any]) -> None:
    """Serve a page: try an adapter beside its base, see why, browse the store, watch a run.

    Without options it finds what `llmdiff demo` and training left below the folder of runs.
    LLMDIFF_APP_LOGIN=user:password makes it ask for a login.
    """
    request = checked(given, AppRequest, "app")
    require("gradio")
    start_engine()
    from pipelines.app.server import serve

    serve(request)
