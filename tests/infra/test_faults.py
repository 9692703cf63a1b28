"""Servers and workers that die under a training run: real processes, real signals.

One run lives through all of it: its worker is killed with it; it goes on under another worker while both servers are
killed and come back. What disks do is in `tests/storage/test_faults.py`.
"""

from __future__ import annotations

from pathlib import Path

from tests.infra.service import SETTINGS, Service
from tests.infra.training_process import Killed, Survivor
from tests.training.run_folder import steps_in


def test_a_killed_workers_run_saves_and_is_shown_as_crashed(service: Service, killed: Killed) -> None:
    assert (killed.state, killed.silent) == ("Crashed", 300)
    assert "Silent for five minutes" in killed.message
    assert killed.steps == list(range(1, killed.saved + 1))
    assert [run["info"]["status"] for run in service.runs_of()][0] == "RUNNING"  # until the next one looks


def test_a_run_that_died_goes_on_and_has_each_step_once(service: Service, killed: Killed, survivor: Survivor) -> None:
    steps = list(range(1, int(SETTINGS["steps"]) + 1))
    assert steps_in(Path(killed.parameters["output"])) == steps
    assert survivor.tracked == steps
    assert [run["info"]["status"] for run in service.runs_of()][:2] == ["FINISHED", "KILLED"]


def test_servers_that_were_away_get_what_happened_meanwhile(service: Service, survivor: Survivor) -> None:
    assert len(survivor.while_away) > 10
    assert set(survivor.while_away) <= set(survivor.tracked)
    assert survivor.connections > 2, "PostgreSQL's connections were dropped too"
    assert [service.state(run) for run in survivor.runs] == ["Completed", "Completed"]


def test_the_same_deployment_twice_runs_once(service: Service, killed: Killed, survivor: Survivor) -> None:
    assert survivor.states == ["AwaitingConcurrencySlot", "Running"]
    assert len([run for run in service.runs_of() if run["info"]["run_name"] == "train killed"]) == 2
