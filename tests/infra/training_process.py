"""The life of a training run on a site whose servers and worker die under it; what was seen of it."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from tests.infra.service import SETTINGS, Service
from tests.training.run_folder import saved_step, steps_in
from tests.waiting import wait_until

AUTOMATION = "llmdiff silent runs crash"
DROP = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname IN ('prefect', 'mlflow')"


def of_the_run(service: Service, *words: str) -> list[psutil.Process]:
    """Processes of the worker's family with all of some words in their command line."""
    family = service.process("worker").family()
    return [process for process in family if all(word in " ".join(process.cmdline()) for word in words)]


def training(service: Service) -> list[psutil.Process]:
    return of_the_run(service, "llmdiff.training.worker", "--local_rank")


def worker(service: Service) -> psutil.Process:
    record = service.process("worker").running()
    assert record is not None
    return psutil.Process(record.pid)


def flows(service: Service) -> list[psutil.Process]:
    return of_the_run(service, "-m prefect.engine")


def crash_after(service: Service, seconds: int) -> int:
    """Changes the automation; its seconds before."""
    found = service.ask("automations/filter", {})
    (automation,) = [item for item in found if item["name"] == AUTOMATION]
    before = automation["trigger"]["within"]
    automation["trigger"]["within"] = seconds
    kept = ("name", "description", "enabled", "trigger", "actions")
    service.ask(f"automations/{automation['id']}", {name: automation[name] for name in kept}, "PUT")
    return int(before)


class Killed(NamedTuple):
    """What was seen of a run whose worker and flow were killed."""

    run: str
    parameters: dict[str, Any]
    state: str
    message: str
    steps: list[int]
    saved: int
    silent: int


class Survivor(NamedTuple):
    """What was seen of the same run, deployed twice, when both servers were killed, and PostgreSQL's connections."""

    runs: list[str]
    states: list[str]
    while_away: list[int]
    tracked: list[int]
    connections: int


def kill_with_its_worker(service: Service, parts: Path) -> Killed:
    """A training run whose worker and flow process were killed; by its own processes nothing was."""
    output = service.home / "killed"
    parameters = {"store": str(parts / "store"), "diffusion": str(parts / "base"), "output": str(output)}
    parameters["settings"] = SETTINGS
    silent = crash_after(service, 45)  # more than the 30 seconds between two signs of life
    run = service.deploy("train", **parameters)
    wait_until(lambda: len(steps_in(output)) > 2)
    at_work = training(service)
    lost = [*flows(service), worker(service)]
    assert len(lost) == 2
    for number in (signal.SIGSTOP, signal.SIGKILL):  # at once: neither can say how the other ended
        for process in lost:
            process.send_signal(number)
    wait_until(lambda: not any(process.is_running() for process in at_work), 90)
    steps, saved = steps_in(output), saved_step(output)
    wait_until(lambda: service.state(run) != "Running", 120, interval=1.0)
    state = service.ask(f"flow_runs/{run}")["state"]
    crash_after(service, silent)
    return Killed(run, parameters, state["name"], state["message"], steps, saved, silent)


def go_on_without_servers(service: Service, killed: Killed) -> Survivor:
    """Run the same training again, to its end."""
    output = Path(killed.parameters["output"])
    service.command("start")  # the worker
    runs = [service.deploy("train", **killed.parameters) for _ in range(2)]
    wait_until(lambda: "AwaitingConcurrencySlot" in map(service.state, runs))
    wait_until(lambda: len(steps_in(output)) > killed.saved + 2)
    held = training(service)
    send(held, signal.SIGSTOP)
    (mine,) = [run for run in runs if service.state(run) == "Running"]
    states = sorted(map(service.state, runs))
    before = steps_in(output)[-1]
    for name in ("prefect", "mlflow"):
        service.kill(name)
    send(held, signal.SIGCONT)
    wait_until(lambda: steps_in(output)[-1] > before + 20)
    send(held, signal.SIGSTOP)
    while_away = [step for step in steps_in(output) if step > before + 2]
    time.sleep(6)  # longer than MLflow's client tries by itself here
    service.command("start")
    lease = service.ask(f"flow_runs/{mine}")["state"]["state_details"]["deployment_concurrency_lease_id"]
    service.ask(f"v2/concurrency_limits/leases/{lease}/renew", {"lease_duration": 300})  # as the run will; 410 ends it
    ended = service.database.query("postgres", DROP)
    send(held, signal.SIGCONT)
    for run in runs:
        service.finish(run)
    tracked = service.steps_of(service.runs_of()[0]["info"]["run_id"])
    return Survivor(runs, states, while_away, tracked, len(ended))


def send(processes: list[psutil.Process], number: int) -> None:
    for process in processes:
        process.send_signal(number)
