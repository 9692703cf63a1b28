"""`make serve` as a user has it who gave every variable: PostgreSQL, S3, logins."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.service.processes import Background
from tests.postgres import Postgres
from tests.python_path import python_path
from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
LOGIN = "engineer:prefect-pa55word-of-the-test"
PASSWORD = "mlflow-pa55word-of-the-test"
DATABASE_PASSWORD = "postgres-pa55word-of-the-test"
STORE_SECRET = "s3-5ecret-of-the-test"
PASSWORDS = (LOGIN.partition(":")[2], PASSWORD, DATABASE_PASSWORD, STORE_SECRET)
SETTINGS = {"steps": 400, "batch_size": 4, "warmup": 1, "log_every": 1, "threads": 1, "checkpoint_every": 100}


@dataclass(frozen=True)
class Service:
    """A running site and the environment that it was started from."""

    env: dict[str, str]
    home: Path
    database: Postgres

    @property
    def prefect(self) -> str:
        return f"http://127.0.0.1:{self.env['PREFECT_PORT']}"

    @property
    def mlflow(self) -> str:
        return f"http://127.0.0.1:{self.env['MLFLOW_PORT']}"

    def process(self, name: str) -> Background:
        return Background(self.home / "serve", name)

    def command(self, command: str) -> str:
        """`start`, `stop` or `status`; what it printed."""
        line = [sys.executable, "-m", "infra.service.manage", command]
        done = subprocess.run(line, env=self.env, cwd=ROOT, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def kill(self, name: str) -> None:
        """Ends one of the three processes, with all that it started, as a loss of power would."""
        for process in self.process(name).family():
            process.send_signal(signal.SIGKILL)
        wait_until(lambda: not self.process(name).family())

    def ask(self, path: str, body: Any = None, method: str | None = None) -> Any:
        """Return the answer of Prefect's API."""
        return answer(f"{self.prefect}/api/{path}", LOGIN, body, method)

    def runs_of(self, experiment: str = "llmdiff") -> list[Any]:
        """MLflow's runs, newest first."""
        found = answer(f"{self.mlflow}/api/2.0/mlflow/experiments/get-by-name?experiment_name={experiment}", MLFLOW)
        wanted = {"experiment_ids": [found["experiment"]["experiment_id"]], "max_results": 100}
        return list(answer(f"{self.mlflow}/api/2.0/mlflow/runs/search", MLFLOW, wanted).get("runs", []))

    def steps_of(self, run_id: str, metric: str = "loss") -> list[int]:
        """The steps at which MLflow has a metric of a run, as often as it has it."""
        query = f"run_id={run_id}&metric_key={metric}&max_results=20000"
        found = answer(f"{self.mlflow}/api/2.0/mlflow/metrics/get-history?{query}", MLFLOW)
        return [int(point.get("step", 0)) for point in found.get("metrics", [])]

    def deploy(self, flow: str, **parameters: Any) -> str:
        """Starts a deployment; the flow run's id."""
        deployment = self.ask(f"deployments/name/{flow}/default")["id"]
        run = self.ask(f"deployments/{deployment}/create_flow_run", {"parameters": parameters})
        return str(run["id"])

    def state(self, run: str) -> str:
        return str(self.ask(f"flow_runs/{run}")["state_name"])

    def finish(self, run: str, state: str = "Completed", seconds: float = 240) -> None:
        """Waits for the end of a flow run."""
        ends = ("Completed", "Failed", "Crashed", "Cancelled")
        wait_until(lambda: self.state(run) in ends, seconds, interval=0.5)
        found = self.ask(f"flow_runs/{run}")["state"]
        assert found["name"] == state, f"{found}\n{self.process('worker').last_words(80)}"


MLFLOW = f"admin:{PASSWORD}"


def answer(url: str, login: str | None = None, body: Any = None, method: str | None = None) -> Any:
    headers = {"Content-Type": "application/json"}
    if login is not None:
        headers["Authorization"] = f"Basic {base64.b64encode(login.encode()).decode()}"
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data, headers, method=method), timeout=30) as found:
        text = found.read()
    return json.loads(text) if text else None


def variables(home: Path, database: Postgres, store: dict[str, str], ports: tuple[int, int]) -> dict[str, str]:
    """What a user would say to `make serve`, and what makes the tests short."""
    given = {
        "LLMDIFF_HOME": str(home),
        "PREFECT_PORT": str(ports[0]),
        "MLFLOW_PORT": str(ports[1]),
        "PREFECT_API_DATABASE_CONNECTION_URL": database.url("prefect", "postgresql+asyncpg"),
        "MLFLOW_BACKEND_STORE_URI": database.url("mlflow"),
        "MLFLOW_ARTIFACTS_DESTINATION": "s3://llmdiff-tests/mlflow",
        "PREFECT_SERVER_API_AUTH_STRING": LOGIN,
        "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORD,
        "PYTHONPATH": python_path(ROOT),
        "OMP_NUM_THREADS": "1",
    }
    quick = {
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "PREFECT_SERVER_CONCURRENCY_MAXIMUM_CONCURRENCY_SLOT_WAIT_SECONDS": "2",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    }
    return {**os.environ, **store, **given, **quick}
