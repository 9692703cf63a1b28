"""Messages to users of the servers: where they are, how to log in, how to open their pages."""

from __future__ import annotations

import ipaddress
import os
import shlex
import sys
from pathlib import Path

from infra.environment import tracking_uri
from infra.service.config import (
    MLFLOW_ARTIFACTS,
    MLFLOW_AUTH,
    MLFLOW_DATABASE,
    POOL,
    PREFECT_AUTH,
    PREFECT_DATABASE,
    ServiceConfig,
    mlflow_user,
    worker_name,
)
from infra.service.logins import made_here
from infra.service.secrets import redacted


def warn_of_plain_http(host: str) -> None:
    """Say that logins can be read on the way, where other machines reach the servers."""
    if not ipaddress.IPv4Address(host).is_loopback:
        print(
            f"warning: both servers listen on {host}, and logins travel in the clear: put a proxy with TLS before "
            "them where the network is not yours alone",
            file=sys.stderr,
        )


def print_addresses(config: ServiceConfig) -> None:
    """Print where all is, and what a shell needs to reach it; no secret, but the command that reads one's file."""
    folder = config.worker.folder
    prefect, mlflow = secret_in_shell(folder, PREFECT_AUTH), secret_in_shell(folder, MLFLOW_AUTH)
    print(f"Prefect  {config.prefect_url}{records_in(*PREFECT_DATABASE)}")
    print(f"MLflow   {config.mlflow_url}{records_in(MLFLOW_DATABASE, MLFLOW_ARTIFACTS)}")
    print(f"worker   {worker_name()} of the work pool {POOL}; logs and pid files in {folder}")
    print(f"login    Prefect's page asks for user:password together: echo {prefect}")
    print(f"         MLflow's page asks for {mlflow_user()} and its password: echo {mlflow}")
    print(f"export PREFECT_API_URL={config.prefect_url}/api")
    print(f"export MLFLOW_TRACKING_URI={config.mlflow_url}")
    print(f"export PREFECT_API_AUTH_STRING={prefect}")
    print(f"export MLFLOW_TRACKING_USERNAME={shlex.quote(mlflow_user())}")
    print(f"export MLFLOW_TRACKING_PASSWORD={mlflow}")


def secret_in_shell(folder: Path, variable: str) -> str:
    """Return a login as a shell gets it: from the content of its file, or from the variable that gave it."""
    file = made_here(folder, variable)
    return f'"$(cat {shlex.quote(str(file))})"' if file else f'"${variable}"'


def records_in(*variables: str) -> str:
    """Return where a server keeps its records, where that was said, without passwords."""
    places = [redacted(os.environ[name]) for name in variables if os.environ.get(name)]
    return f"  records in {', '.join(places)}" if places else ""


def registry_command(python_bin: str = ".venv/bin") -> str:
    """Return the command that opens the page of the tracking database on this machine."""
    return f"{python_bin}/mlflow ui --backend-store-uri {redacted(tracking_uri())}    (http://127.0.0.1:5000)"
