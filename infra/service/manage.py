"""A Prefect server, an MLflow server with its registry, and a worker of the deployments, on this machine.

``python -m infra.service.manage start|stop|status``, which is what ``make serve`` and ``make stop`` run. Pid files,
logs and, when nothing else is said, both databases are in ``serve/`` of the folder of runs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from infra.ending import well_ended
from infra.service.commands import mlflow_command, server_command, worker_command
from infra.service.config import (
    ServiceConfig,
    check_packages,
    check_ports,
    mlflow_environment,
    prefect_environment,
    read_service_config,
    serve_folder,
    worker_environment,
)
from infra.service.deployments import ROOT, register, unregistered
from infra.service.health import check_login, mlflow_answers, prefect_answers, wait_for, worker_answers
from infra.service.logins import complete_logins
from infra.service.messages import print_addresses, warn_of_plain_http
from infra.service.processes import Background
from storage.io.files import lock_now

FLOW_GRACE_SECONDS = 75.0
"""Seconds that running flows get when the worker is stopped: a training run may take a minute to save its state."""


def start() -> None:
    """Start what does not run yet, wait until all of it answers, and register the deployments."""
    folder = serve_folder()
    with one_at_a_time(folder):
        config = read_service_config(folder)
        complete_logins(folder)
        warn_of_plain_http(config.host)
        missing = [process for process in config.processes if process.running() is None]
        if not missing and mlflow_answers(config) and not unregistered(config):
            print("all is up already; nothing was changed")
        else:
            check_packages()
            check_ports(config, missing)
            print(f"starting; logs in {folder}", flush=True)
            try:
                bring_up(config, missing)
            except BaseException:
                for process in missing:
                    process.end(grace=1)  # nothing of it has begun to work
                raise
        print_addresses(config)


def stop() -> None:
    """End what `start` started: the worker first, so that the flows it runs can still say how they ended."""
    folder = serve_folder()
    with one_at_a_time(folder):
        ended = 0
        for name, grace in (("worker", FLOW_GRACE_SECONDS), ("mlflow", 15.0), ("prefect", 15.0)):
            process = Background(folder, name)
            record = process.running()
            if count := process.end(grace):
                print(f"ended {name} (process {record.pid if record else 'gone'}; {count} with all that it started)")
            ended += count
        if not ended:
            print("nothing runs")


def status() -> None:
    """Print what runs and whether it answers; raise RuntimeError where something does not."""
    folder = serve_folder()
    config = read_service_config(folder)
    complete_logins(folder)
    checks = {"prefect": prefect_answers, "mlflow": mlflow_answers, "worker": worker_answers}
    down = []
    for process in reversed(config.processes):
        record = process.running()
        up = record is not None and checks[process.name](config)
        state = "up" if up else "does not answer" if record else "does not run"
        print(f"{process.name:8} {state}{f', process {record.pid}' if record else ''}, log {process.log}")
        down += [] if up else [process.name]
    if down:
        raise RuntimeError(f"not up: {', '.join(down)}")
    print_addresses(config)


def bring_up(config: ServiceConfig, missing: list[Background]) -> None:
    """Start the missing processes, each once what it needs answers, and register the deployments.

    A server that ran all the time has them, and that takes seconds; one that is started may have older ones.
    """
    began = datetime.now(UTC)
    if config.prefect in missing:
        environment = prefect_environment(config)
        config.prefect.start(server_command(config), environment, ROOT, config.host, config.prefect_port)
    if config.mlflow in missing:
        config.mlflow.start(mlflow_command(config), mlflow_environment(config), ROOT, config.host, config.mlflow_port)
    wait_for(config.prefect, partial(prefect_answers, config))
    if config.worker in missing:
        config.worker.start(worker_command(), worker_environment(config), ROOT)
    wait_for(config.mlflow, partial(mlflow_answers, config))
    check_login(config)
    wait_for(config.worker, partial(worker_answers, config, began if config.worker in missing else None))
    if config.prefect in missing or unregistered(config):
        register(config)


@contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Raise ValueError where another `start` or `stop` is at work."""
    with (folder / "lock").open("w") as file:
        if not lock_now(file.fileno()):
            raise ValueError(f"{folder}: another `make serve` or `make stop` is at work")
        yield


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m infra.service.manage", description=(__doc__ or "").splitlines()[0])
    commands = {"start": start, "stop": stop, "status": status}
    parser.add_argument("command", choices=commands)
    command = commands[parser.parse_args().command]
    with well_ended("the same command goes on"):
        try:
            command()
        except (ValueError, RuntimeError, OSError) as error:
            sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
