"""Health checks of the servers and the worker, over the HTTP interfaces that `make serve` relies on."""

from __future__ import annotations

import base64
import json
import os
import time
import urllib.request
from collections.abc import Callable
from datetime import datetime
from typing import Any
from urllib.error import HTTPError

from infra.service.config import MLFLOW_AUTH, POOL, PREFECT_AUTH, ServiceConfig, mlflow_user, worker_name
from infra.service.processes import Background

TIMEOUT_SECONDS = 180.0
PATIENCE = 60.0
"""Seconds for an answer that nobody asks for again: a machine that is busy gives it late."""


def wait_for(process: Background, answers: Callable[[], bool]) -> None:
    """Wait until a process answers.

    Raises:
        RuntimeError: it ended.
        TimeoutError: it is still silent after `TIMEOUT_SECONDS`. Both messages hold the end of the log.
    """
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not answers():
        if process.running() is None:
            raise RuntimeError(f"{process.name} ended before it answered; {process.last_words()}")
        if time.monotonic() > deadline:
            raise TimeoutError(f"{process.name} does not answer after {TIMEOUT_SECONDS:.0f} s; {process.last_words()}")
        time.sleep(0.3)


def prefect_answers(config: ServiceConfig) -> bool:
    """Return whether Prefect's server says that it is healthy."""
    return ask_prefect(config, "health") is True


def mlflow_answers(config: ServiceConfig) -> bool:
    """Return whether MLflow's server says that it is healthy."""
    return ask(f"{config.mlflow_url}/health") == "OK"


def check_login(config: ServiceConfig) -> None:
    """Raise ValueError where MLflow, which keeps its users, knows another password than this start's."""
    try:
        search = f"{config.mlflow_url}/api/2.0/mlflow/experiments/search"
        ask_or_raise(search, {"max_results": 1}, mlflow_login(), PATIENCE)
    except HTTPError as error:
        if error.code == 401:
            users = config.mlflow.folder / "mlflow-users.db"
            raise ValueError(
                f"MLflow refuses the login: {users} has another password of {mlflow_user()}; give that as "
                f"{MLFLOW_AUTH}, or move the file away, which makes its users anew"
            ) from error


def worker_answers(config: ServiceConfig, since: datetime | None = None) -> bool:
    """Return whether the worker reports to the server, and has done so since a time."""
    workers = ask_prefect(config, f"work_pools/{POOL}/workers/filter", {}) or []
    ours = [worker for worker in workers if worker["name"] == worker_name() and worker["status"] == "ONLINE"]
    return any(since is None or datetime.fromisoformat(worker["last_heartbeat_time"]) > since for worker in ours)


def ask_prefect(config: ServiceConfig, path: str, body: Any = None, patience: float = 5.0) -> Any:
    """Ask Prefect's API; see `ask`."""
    return ask(f"{config.prefect_url}/api/{path}", body, os.environ.get(PREFECT_AUTH), patience)


def mlflow_login() -> str | None:
    """Return ``user:password`` of MLflow's administrator; None where no password is known."""
    password = os.environ.get(MLFLOW_AUTH)
    return f"{mlflow_user()}:{password}" if password else None


def ask(url: str, body: Any = None, login: str | None = None, patience: float = 5.0) -> Any:
    """Return the answer to a GET, or to a POST of a body, in JSON where it is; None where there is none in time."""
    try:
        text = ask_or_raise(url, body, login, patience)
    except OSError:
        return None
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def ask_or_raise(url: str, body: Any, login: str | None, patience: float) -> str:
    """Return the answer as text; raise OSError, of which urllib's HTTPError is one, where there is none in time."""
    headers = {"Content-Type": "application/json"}
    if login:
        headers["Authorization"] = f"Basic {base64.b64encode(login.encode()).decode()}"
    data = None if body is None else json.dumps(body).encode()
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(urllib.request.Request(url, data, headers), timeout=patience) as answer:
        return str(answer.read().decode())
