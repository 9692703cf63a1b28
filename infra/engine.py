"""Prefect's own server for flows that need one and have none, which ends with the process that needs it.

Prefect starts it in the terminal's process group, where Ctrl-C ends it before the flow can report to it, and leaves it
behind when the flow's process is killed. As a program, ``python -m infra.engine MODULE ARGUMENT...``, this runs a
module until standard input is closed.
"""

from __future__ import annotations

import runpy
import subprocess
import sys
from typing import Any

from infra.environment import child_environment
from llmdiff.process.parent_death import end_with_input

STARTS = "_run_uvicorn_command"
"""Prefect's method that starts its server."""
GRACE_SECONDS = 2.0
"""Seconds that the server gets to close its database after its owner has ended."""


def tie_server() -> None:
    """Have Prefect start its server as `start_server` does, where none is configured.

    This replaces a private method of Prefect; `tests/infra/test_ending.py` says where that is another.
    """
    from prefect.settings import PREFECT_API_URL

    if PREFECT_API_URL.value() is None:
        from prefect.server.api.server import SubprocessASGIServer

        setattr(SubprocessASGIServer, STARTS, start_server)


def start_server(server: Any) -> subprocess.Popen[Any]:
    """Start Prefect's server as its own method does, out of the terminal's reach and tied to this process."""
    import prefect
    from prefect.settings import get_current_settings

    ephemeral = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}
    settings = get_current_settings().to_environment_variables(exclude_unset=True)
    listen = ["--host", "127.0.0.1", "--port", str(server.port), "--log-level", "error", "--lifespan", "on"]
    application = ["uvicorn", "--app-dir", str(prefect.__module_path__.parent)]
    application += ["--factory", "prefect.server.api.server:create_app"]
    return subprocess.Popen(
        [sys.executable, "-m", "infra.engine", *application, *listen],
        env={**child_environment(), **ephemeral, **settings},
        stdin=subprocess.PIPE,
        start_new_session=True,
    )


if __name__ == "__main__":
    end_with_input(GRACE_SECONDS)
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
