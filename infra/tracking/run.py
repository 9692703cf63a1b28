"""MLflow tracking: one run for each training run, its metrics as they are written, its pictures and its end."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from infra.environment import home, tracking_uri
from infra.service.processes import started
from llmdiff.training.rows import row_of

EXPERIMENT = "llmdiff"
PROCESS = "process"
"""Name of a run's tag that says which process it belongs to."""
LONGEST_PARAM = 6000
TRY_AGAIN_AFTER = 15.0
"""Seconds between two attempts at a server that does not answer, beside the client's own."""
PATIENCE = 1800.0
"""Seconds that a finished run waits for such a server; what it wrote is on the disk, and can be sent later."""


def client() -> MlflowClient:
    """Return a client of the tracking server and registry that `infra.environment.tracking_uri` names."""
    uri = tracking_uri()
    if uri.startswith("sqlite:///"):
        Path(uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    return MlflowClient(uri, uri)


def run_page(run_id: str) -> str | None:
    """Return the address of a run's page on the MLflow server; None where tracking is in a file."""
    server = tracking_uri().rstrip("/")
    if not server.startswith(("http://", "https://")):
        return None
    return f"{server}/#/experiments/{client().get_run(run_id).info.experiment_id}/runs/{run_id}"


class TrackedRun:
    """An MLflow run that follows a training run's ``metrics.jsonl``."""

    def __init__(self, api: MlflowClient, run_id: str, artifacts: str) -> None:
        self.api = api
        self.run_id = run_id
        self.artifacts = artifacts
        self._waiting: list[Metric] = []
        self._next_attempt = 0.0

    def follow(self, rows: list[dict[str, Any]]) -> None:
        """Log rows of ``metrics.jsonl``: every number that changes in them, nested ones under dotted names.

        They wait while the server is away; sent twice, they are the same points to it, for their time is of now.
        """
        now = int(time.time() * 1000)
        self._waiting += [
            Metric(name, value, now, int(row["step"]))
            for row in rows
            for name, value in numbers({key: item for key, item in row.items() if key not in ("step", "steps")})
        ]
        if time.monotonic() >= self._next_attempt and not self._send():
            self._next_attempt = time.monotonic() + TRY_AGAIN_AFTER

    def catch_up(self) -> None:
        """Send the metrics that wait; TimeoutError where the server stays away for `PATIENCE`."""
        deadline = time.monotonic() + PATIENCE
        while not self._send():
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"MLflow does not answer for {PATIENCE:.0f} s now; all is on the disk: run it again to send it"
                )
            time.sleep(TRY_AGAIN_AFTER)

    def _send(self) -> bool:
        """Send the metrics that wait; return False where the server is away."""
        try:
            while self._waiting:
                self.api.log_batch(self.run_id, metrics=self._waiting[:1000])  # the most that a server takes at once
                del self._waiting[:1000]
        except MlflowException as error:
            if error.get_http_status_code() < 500:
                raise
            return False
        return True

    def keep(self, path: Path, folder: str = "") -> None:
        """Store a file or a folder's content as artifacts below `folder`."""
        log = self.api.log_artifacts if path.is_dir() else self.api.log_artifact
        log(self.run_id, str(path), folder or None)


@contextmanager
def tracked_run(name: str, params: dict[str, Any], tags: dict[str, str]) -> Iterator[TrackedRun]:
    """Track an MLflow run from start to end: FINISHED, FAILED on an error, KILLED on Ctrl-C or cancellation.

    One whose process was killed, or whose server was away then, can't say so itself: the next one does it for it.
    """
    api = client()
    experiment = _experiment(api)
    end_left_over(api, experiment)
    run = api.create_run(experiment, run_name=name)
    run_id = run.info.run_id
    flat = [Param(key, str(value)[:LONGEST_PARAM]) for key, value in flattened(params)]
    tags = {**tags, PROCESS: _process(os.getpid())}
    api.log_batch(run_id, params=flat[:100], tags=[RunTag(key, value) for key, value in tags.items()])
    tracked = TrackedRun(api, run_id, run.info.artifact_uri)
    try:
        yield tracked
        tracked.catch_up()
    except BaseException as error:
        with suppress(MlflowException):  # the error itself says more
            api.set_terminated(run_id, "FAILED" if isinstance(error, Exception) else "KILLED")
        raise
    api.set_terminated(run_id, "FINISHED")


def end_left_over(api: MlflowClient, experiment: str) -> None:
    """Mark runs as KILLED whose process on this machine has ended without a word."""
    for run in api.search_runs([experiment], "attributes.status = 'RUNNING'"):
        process = run.data.tags.get(PROCESS, "")
        host, _, pid = process.partition(" ")[0].rpartition(":")
        if host == socket.gethostname() and process != _process(int(pid)):
            api.set_terminated(run.info.run_id, "KILLED")


def _process(pid: int) -> str:
    """Return a text for this machine's process of a number, which no later process of that number shares."""
    return f"{socket.gethostname()}:{pid} {started(pid)}"


class RowReader:
    """Reader of a growing ``metrics.jsonl``: the rows of new steps since the last look, each of them once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.inode = self.offset = self.step = 0

    def read(self) -> list[dict[str, Any]]:
        if not self.path.exists():
            return []
        with self.path.open("rb") as file:
            if (inode := os.fstat(file.fileno()).st_ino) != self.inode:  # a resumed run has rows cut off in a new file
                self.inode, self.offset = inode, 0
            file.seek(self.offset)
            data = file.read()
        complete = data[: data.rfind(b"\n") + 1]
        self.offset += len(complete)
        found = map(row_of, complete.splitlines())
        rows = [row for row in found if row is not None and row["step"] > self.step]
        self.step = rows[-1]["step"] if rows else self.step
        return rows


class WarningReader:
    """Reader of a growing log: what `llmdiff.training.monitor` wrote into it since the last look."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.offset = path.stat().st_size if path.exists() else 0

    def read(self) -> list[str]:
        if not self.path.exists():
            return []
        with self.path.open("rb") as file:
            file.seek(self.offset)
            data = file.read()
        complete = data[: data.rfind(b"\n") + 1]
        self.offset += len(complete)
        parts = (line.partition("training warning: ") for line in complete.decode(errors="replace").splitlines())
        return [text for _, found, text in parts if found]  # a progress bar may come first in the line


def numbers(row: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Yield the numbers of a row by dotted name; in a list of dictionaries with a "layer", the layer is the name."""
    for key, value in row.items():
        name = f"{prefix}{key}"
        if isinstance(value, bool):
            continue
        if isinstance(value, int | float):
            yield name, float(value)
        elif isinstance(value, dict):
            yield from numbers(value, f"{name}.")
        elif isinstance(value, list):
            items = (item if isinstance(item, dict) else {"": item} for item in value)
            for index, item in enumerate(items):
                label = str(item.get("layer", index))
                yield from ((f"{n.rstrip('.')}", v) for n, v in numbers(item, f"{name}.{label}."))


def flattened(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield nested settings by dotted name."""
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from flattened(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _experiment(api: MlflowClient) -> str:
    found = api.get_experiment_by_name(EXPERIMENT)
    if found is not None:
        return str(found.experiment_id)
    local = tracking_uri().startswith("sqlite:")  # a server has an artifact store of its own
    return str(api.create_experiment(EXPERIMENT, (home() / "mlartifacts").as_uri() if local else None))
