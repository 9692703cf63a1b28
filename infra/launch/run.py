"""The processes of a training run: on this machine, on several hosts from here, or on one of several."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from infra.launch.hostfile import Topology
from infra.launch.local import run_workers
from infra.launch.ssh import run_on_hosts
from llmdiff.training.config import CONFIG

RUN_ID = "mlflow-run"
"""File of a run's folder with the id of its MLflow run, written once that has everything."""


def run_training(output: Path, topology: Topology, poll: Callable[[], None]) -> None:
    """Train as ``config.json`` in a run's folder says; see `infra.launch.local.run_workers`.

    Tracebacks go to ``train.log``, and are shown where this command is given --debug.
    """
    arguments = ["--config", str((output / CONFIG).resolve()), "--tied", "--debug"]
    run = run_on_hosts if topology.hosts and topology.rank is None else run_workers
    run("llmdiff.training.worker", arguments, topology=topology, log=output / "train.log", poll=poll)


def join_training(output: Path, topology: Topology, restart: bool) -> None:
    """Take the part of a further host: its processes wait for the first host's, which says what to do."""
    if not restart and is_finished(output):
        print(f"{output}: finished before; --restart begins again")
        return
    run_training(output, topology, poll=lambda: None)
    print(f"host {topology.rank} of {len(topology.hosts)}: its processes ended; host 0 has the result")


def is_finished(output: Path) -> bool:
    """Return whether a run has its result, and MLflow too."""
    return (output / "adapter" / "adapter.safetensors").exists() and (output / RUN_ID).exists()
