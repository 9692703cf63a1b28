"""Command lines of the servers and the worker."""

from __future__ import annotations

import sys

from infra.service.config import POOL, ServiceConfig, worker_name


def prefect_command(*arguments: str) -> list[str]:
    """Return Prefect's command line, of this environment."""
    return [sys.executable, "-m", "prefect", *arguments]


def server_command(config: ServiceConfig) -> list[str]:
    """Return Prefect's server, behind its guard."""
    return [sys.executable, "-m", "infra.service.guard", "--host", config.host, "--port", str(config.prefect_port)]


def worker_command() -> list[str]:
    """Return a worker of the deployments' work pool."""
    return prefect_command("worker", "start", "--pool", POOL, "--type", "process", "--name", worker_name())


def mlflow_command(config: ServiceConfig) -> list[str]:
    """Return MLflow's server; its databases come by the environment, which others can't read, as they can this."""
    command = [sys.executable, "-m", "mlflow", "server", "--host", config.host, "--port", str(config.mlflow_port)]
    return [*command, "--app-name", "basic-auth"]
