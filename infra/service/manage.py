"""A Prefect server, an MLflow server with its registry, and a worker of the deployments, on this machine.

``python -m infra.service.manage start|stop|status``, which is what ``make serve`` and ``make stop`` run. Pid files,
logs and, when nothing else is said, both databases are in ``serve/`` of the folder of runs.
"""

from __future__ import annotations

import argparse
import base64
import ipaddress
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from infra.service.config import (
    MLFLOW_ARTIFACTS,
    MLFLOW_AUTH,
    MLFLOW_DATABASE,
    PREFECT_AUTH,
    PREFECT_DATABASE,
    ServiceConfig,
    check_packages,
    check_ports,
    mlflow_environment,
    prefect_environment,
    read_service_config,
    serve_folder,
    worker_environment,
    worker_name,
)
from infra.service.processes import Background
from infra.service.secrets import redacted
from storage.io.files import lock_now

ROOT = Path(__file__).resolve().parents[2]
DEPLOYMENTS = ROOT / "infra" / "prefect.yaml"
AUTOMATIONS = ROOT / "infra" / "automations.yaml"
POOL = "llmdiff"
TIMEOUT_SECONDS = 180.0
FLOW_GRACE_SECONDS = 75.0
"""For flows that run when the worker is stopped: a training run may take a minute to save its state."""


def start() -> None:
    """Starts what does not run yet, waits until all of it answers, and registers the deployments."""
    folder = serve_folder()
    with one_at_a_time(folder):
        site = read_service_config(folder)
        warn_of_open_doors(site.host)
        missing = [process for process in site.processes if process.running() is None]
        if not missing and mlflow_answers(site) and not unregistered(site):
            print("all is up already; nothing was changed")
        else:
            check_packages()
            check_ports(site, missing)
            print(f"starting; logs in {folder}", flush=True)
            try:
                bring_up(site, missing)
            except BaseException:
                for process in missing:
                    process.end(grace=10)
                raise
        print_addresses(site)


def stop() -> None:
    """Ends what `start` started: the worker first, so that the flows it runs can still say how they ended."""
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
    """Prints what runs and whether it answers; RuntimeError where something does not."""
    site = read_service_config(serve_folder())
    checks = {"prefect": prefect_answers, "mlflow": mlflow_answers, "worker": worker_answers}
    down = []
    for process in reversed(site.processes):
        record = process.running()
        up = record is not None and checks[process.name](site)
        state = "up" if up else "does not answer" if record else "does not run"
        print(f"{process.name:8} {state}{f', process {record.pid}' if record else ''}, log {process.log}")
        down += [] if up else [process.name]
    if down:
        raise RuntimeError(f"not up: {', '.join(down)}")
    print_addresses(site)


def bring_up(site: ServiceConfig, missing: list[Background]) -> None:
    """Starts the missing processes, each once what it needs answers, and registers the deployments."""
    began = datetime.now(UTC)
    if site.prefect in missing:
        command = prefect_command("server", "start", "--host", site.host, "--port", str(site.prefect_port))
        site.prefect.start(command, prefect_environment(site), ROOT, site.host, site.prefect_port)
    if site.mlflow in missing:
        site.mlflow.start(mlflow_command(site), mlflow_environment(site), ROOT, site.host, site.mlflow_port)
    wait_for(site.prefect, partial(prefect_answers, site))
    if site.worker in missing:
        command = prefect_command("worker", "start", "--pool", POOL, "--type", "process", "--name", worker_name())
        site.worker.start(command, worker_environment(site), ROOT)
    wait_for(site.mlflow, partial(mlflow_answers, site))
    wait_for(site.worker, partial(worker_answers, site, began if site.worker in missing else None))
    register(site)


def wait_for(process: Background, answers: Callable[[], bool]) -> None:
    """Waits until a process answers.

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


def prefect_answers(site: ServiceConfig) -> bool:
    """Whether Prefect's server says that it is healthy."""
    return ask(f"{site.prefect_url}/api/health") is True


def mlflow_answers(site: ServiceConfig) -> bool:
    """Whether MLflow's server says that it is healthy."""
    return ask(f"{site.mlflow_url}/health") == "OK"


def worker_answers(site: ServiceConfig, since: datetime | None = None) -> bool:
    """Whether the worker reports to the server, and has done so since a time."""
    workers = ask(f"{site.prefect_url}/api/work_pools/{POOL}/workers/filter", {}) or []
    ours = [worker for worker in workers if worker["name"] == worker_name() and worker["status"] == "ONLINE"]
    return any(since is None or datetime.fromisoformat(worker["last_heartbeat_time"]) > since for worker in ours)


def unregistered(site: ServiceConfig) -> set[str]:
    """Entry points of `DEPLOYMENTS` that the server has no deployment of."""
    wanted = {deployment["entrypoint"] for deployment in yaml.safe_load(DEPLOYMENTS.read_text())["deployments"]}
    found = ask(f"{site.prefect_url}/api/deployments/filter", {}) or []
    return wanted - {deployment["entrypoint"] for deployment in found}


def register(site: ServiceConfig) -> None:
    """Registers deployments and automations; RuntimeError with what Prefect said where that fails.

    An automation that is there already stays as it is: it may have been changed on the page.
    """
    command = prefect_command("--no-prompt", "deploy", "--all", "--prefect-file", str(DEPLOYMENTS.relative_to(ROOT)))
    done = subprocess.run(command, env=worker_environment(site), cwd=ROOT, capture_output=True, text=True)
    if done.returncode or unregistered(site):
        raise RuntimeError(f"the deployments were not registered:\n{redacted(done.stdout + done.stderr)}")
    known = {automation["name"] for automation in ask(f"{site.prefect_url}/api/automations/filter", {}) or []}
    for automation in yaml.safe_load(AUTOMATIONS.read_text())["automations"]:
        if automation["name"] not in known and ask(f"{site.prefect_url}/api/automations/", automation) is None:
            raise RuntimeError(f"Prefect's server did not take the automation {automation['name']!r} of {AUTOMATIONS}")


def ask(url: str, body: Any = None) -> Any:
    """The answer to a GET, or to a POST of a body, in JSON where it is; None where there is none."""
    headers = {"Content-Type": "application/json"}
    if login := os.environ.get(PREFECT_AUTH):
        headers["Authorization"] = f"Basic {base64.b64encode(login.encode()).decode()}"
    data = None if body is None else json.dumps(body).encode()
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(urllib.request.Request(url, data, headers), timeout=5) as answer:
            text = answer.read().decode()
    except OSError:
        return None
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def prefect_command(*arguments: str) -> list[str]:
    """Prefect's command line, of this environment."""
    return [sys.executable, "-m", "prefect", *arguments]


def mlflow_command(site: ServiceConfig) -> list[str]:
    """MLflow's server; its databases come by the environment, which others can't read as they can a command line."""
    command = [sys.executable, "-m", "mlflow", "server", "--host", site.host, "--port", str(site.mlflow_port)]
    return [*command, "--app-name", "basic-auth"] if os.environ.get(MLFLOW_AUTH) else command


@contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """ValueError where another `start` or `stop` is at work."""
    with (folder / "lock").open("w") as file:
        if not lock_now(file.fileno()):
            raise ValueError(f"{folder}: another `make serve` or `make stop` is at work")
        yield


def warn_of_open_doors(host: str) -> None:
    """Says which server other machines can use without a password."""
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


def print_addresses(site: ServiceConfig) -> None:
    """Where all is, and what a shell needs to reach it."""
    print(f"Prefect  {site.prefect_url}{records_in(*PREFECT_DATABASE)}")
    print(f"MLflow   {site.mlflow_url}{records_in(MLFLOW_DATABASE, MLFLOW_ARTIFACTS)}")
    print(f"worker   {worker_name()} of the work pool {POOL}; logs and pid files in {site.worker.folder}")
    print(f"export PREFECT_API_URL={site.prefect_url}/api")
    print(f"export MLFLOW_TRACKING_URI={site.mlflow_url}")
    if os.environ.get(PREFECT_AUTH):
        print(f"export PREFECT_API_AUTH_STRING=<as {PREFECT_AUTH}>")
    if os.environ.get(MLFLOW_AUTH):
        print(f"export MLFLOW_TRACKING_USERNAME={os.environ.get('MLFLOW_AUTH_ADMIN_USERNAME', 'admin')}")
        print(f"export MLFLOW_TRACKING_PASSWORD=<as {MLFLOW_AUTH}>")


def records_in(*variables: str) -> str:
    """Where a server keeps its records, where that was said, without passwords."""
    places = [redacted(os.environ[name]) for name in variables if os.environ.get(name)]
    return f"  records in {', '.join(places)}" if places else ""


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m infra.service.manage", description=(__doc__ or "").splitlines()[0])
    commands = {"start": start, "stop": stop, "status": status}
    parser.add_argument("command", choices=commands)
    try:
        commands[parser.parse_args().command]()
    except (ValueError, RuntimeError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted")


if __name__ == "__main__":
    main()
