"""What users are told of the servers: where they are, how to open their pages, which doors are open."""

from __future__ import annotations

import ipaddress
import os
import sys

from infra.environment import tracking_uri
from infra.service.config import (
    MLFLOW_ARTIFACTS,
    MLFLOW_AUTH,
    MLFLOW_DATABASE,
    POOL,
    PREFECT_AUTH,
    PREFECT_DATABASE,
    ServiceConfig,
    worker_name,
)
from infra.service.secrets import redacted


def warn_of_open_doors(host: str) -> None:
    """Say which server other machines can use without a password."""
    if ipaddress.IPv4Address(host).is_loopback:
        return
    for name, danger, variable, value in (
        ("Prefect", "run code here", PREFECT_AUTH, "user:password"),
        ("MLflow", "read and delete what is here", MLFLOW_AUTH, "password"),
    ):
        if not os.environ.get(variable):
            print(
                f"warning: {name} listens on {host} and has no authentication: whoever reaches this machine can "
                f"{danger}. {variable}=<{value}> makes it ask for a login",
                file=sys.stderr,
            )


def print_addresses(config: ServiceConfig) -> None:
    """Print where all is, and what a shell needs to reach it."""
    print(f"Prefect  {config.prefect_url}{records_in(*PREFECT_DATABASE)}")
    print(f"MLflow   {config.mlflow_url}{records_in(MLFLOW_DATABASE, MLFLOW_ARTIFACTS)}")
    print(f"worker   {worker_name()} of the work pool {POOL}; logs and pid files in {config.worker.folder}")
    print(f"export PREFECT_API_URL={config.prefect_url}/api")
    print(f"export MLFLOW_TRACKING_URI={config.mlflow_url}")
    if os.environ.get(PREFECT_AUTH):
        print(f"export PREFECT_API_AUTH_STRING=<as {PREFECT_AUTH}>")
    if os.environ.get(MLFLOW_AUTH):
        print(f"export MLFLOW_TRACKING_USERNAME={os.environ.get('MLFLOW_AUTH_ADMIN_USERNAME', 'admin')}")
        print(f"export MLFLOW_TRACKING_PASSWORD=<as {MLFLOW_AUTH}>")


def records_in(*variables: str) -> str:
    """Return where a server keeps its records, where that was said, without passwords."""
    places = [redacted(os.environ[name]) for name in variables if os.environ.get(name)]
    return f"  records in {', '.join(places)}" if places else ""


def page_commands(python_bin: str = ".venv/bin") -> dict[str, str]:
    """Return the commands that open the pages of the flows and of the tracking database on this machine."""
    engine = os.environ.get("PREFECT_HOME")
    prefix = f"PREFECT_HOME={engine} " if engine else ""
    return {
        "flows": f"{prefix}{python_bin}/prefect server start    (http://127.0.0.1:4200)",
        "registry": f"{python_bin}/mlflow ui --backend-store-uri {redacted(tracking_uri())}    (http://127.0.0.1:5000)",
    }
