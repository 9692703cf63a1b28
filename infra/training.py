"""The processes of a training run: on this machine, on several hosts from here, or on one of several."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from infra.hosts import Place
from infra.launch import run_workers
from infra.remote import run_on_hosts

RUN_ID = "mlflow-run"
"""File of a run's folder with the id of its MLflow run, written once that has everything."""


def run_training(output: Path, place: Place, poll: Callable[[], None]) -> None:
    """Trains as ``request.json`` in a run's folder says; see `infra.launch.run_workers`.

    Tracebacks go to ``train.log``, and are shown where this command is told --debug.
    """
    arguments = ["--config", str((output / "request.json").resolve()), "--tied", "--debug"]
    run = run_on_hosts if place.hosts and place.rank is None else run_workers
    run("llmdiff.training.worker", arguments, place=place, log=output / "train.log", poll=poll)


def join_training(output: Path, place: Place, restart: bool) -> None:
    """The part of a further host: its processes wait for the first host's, which says what to do."""
    if not restart and is_finished(output):
        print(f"{output}: finished before; --restart begins again")
        return
    run_training(output, place, poll=lambda: None)
    print(f"host {place.rank} of {len(place.hosts)}: its processes ended; host 0 has the result")


def is_finished(output: Path) -> bool:
    """Whether a run has its result, and MLflow too."""
    return (output / "adapter" / "adapter.safetensors").exists() and (output / RUN_ID).exists()
