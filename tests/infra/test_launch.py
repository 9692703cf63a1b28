from __future__ import annotations

import base64
import importlib.util
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from infra.launch import local
from infra.launch.errors import LaunchError, error_of
from infra.launch.hostfile import Topology
from infra.launch.local import run_workers
from tests.hostile_folder import hostile_folder
from tests.waiting import wait_until

FOLLOWING = """
import sqlite3, sys, time
from contextlib import suppress
from pathlib import Path
from infra import ending
from infra.launch.hostfile import Topology
from infra.launch.local import run_workers

def swallowing():
    with suppress(BaseException):
        time.sleep(60)

def waiting_in_c():
    with sqlite3.connect(folder / "locked", timeout=60) as database:
        database.execute("BEGIN EXCLUSIVE")

held_up = {"swallowing": swallowing, "waiting in C": waiting_in_c, "at once": lambda: None}

def poll():
    if (folder / "rank-0").exists():
        (folder / "following").touch()
        held_up[sys.argv[2]]()

folder = Path(sys.argv[1])
ending.SECONDS = 0.5
with ending.well_ended("the same command goes on"):
    topology = Topology(processes=1)
    run_workers("tests.infra.rank", [str(folder), "slow"], topology=topology, log=folder / "log", poll=poll)
"""
"""A command whose main thread a signal's exception reaches too late or never, with a process that saves for longer."""


def run(folder: Path, end: str, poll: object = lambda: None, processes: int = 2, **options: object) -> None:
    run_workers(
        "tests.infra.rank",
        [str(folder), end],
        topology=Topology(processes=processes),
        log=folder / "log.txt",
        poll=poll,
        **options,
    )  # type: ignore[arg-type]


def pids(folder: Path) -> list[int]:
    return [int(path.read_text().split()[0]) for path in sorted(folder.glob("rank-*"))]


@pytest.mark.process
def test_a_failed_rank_is_reported_in_its_own_words_and_ends_the_others(tmp_path: Path) -> None:
    polls: list[float] = []
    with pytest.raises(LaunchError, match="KeyError: 'the real reason'") as failed:
        run(tmp_path, "raise", lambda: polls.append(time.monotonic()))
    assert 'raise KeyError("the real reason")' in failed.value.__notes__[0]  # shown with a traceback alone
    assert [path.read_text().split()[1] for path in sorted(tmp_path.glob("rank-*"))] == ["2", "2"]
    assert not any(psutil.pid_exists(pid) for pid in pids(tmp_path))
    log = (tmp_path / "log.txt").read_text()
    assert "rank 0 speaks" in log
    assert "rank 1 speaks" in log
    assert len(polls) > 2


@pytest.mark.process
@pytest.mark.parametrize("processes", [1, 2])
def test_ctrl_c_lets_every_process_save_and_leaves_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: int
) -> None:
    monkeypatch.chdir(hostile_folder(tmp_path))

    def interrupt() -> None:
        if len(pids(tmp_path)) == processes:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, "sleep", interrupt, processes, interval=0.05)
    assert sorted(path.name for path in tmp_path.glob("saved-*")) == ["saved-0", "saved-1"][:processes]
    assert not any(psutil.pid_exists(pid) for pid in pids(tmp_path))
    assert not [
        child
        for child in psutil.Process(os.getpid()).children(recursive=True)
        if "infra.launch.launcher" in child.cmdline()
    ]


def following(folder: Path, held_up: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", FOLLOWING, str(folder), held_up]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    wait_until((folder / "following").exists, 60, child)
    time.sleep(0.2)  # it touches the file before it is held up
    return child


def assert_saved(folder: Path, child: subprocess.Popen[str]) -> None:
    printed, _ = child.communicate(timeout=30)
    assert child.returncode == 143, printed
    assert printed.splitlines()[-1] == "stopped by SIGTERM: the same command goes on"
    assert (folder / "saved-0").exists()
    assert not any(psutil.pid_exists(pid) for pid in pids(folder))


@pytest.mark.process
@pytest.mark.parametrize("held_up", ["swallowing", "waiting in C"])
def test_a_command_that_is_held_up_in_following_lets_its_processes_save(tmp_path: Path, held_up: str) -> None:
    with closing(sqlite3.connect(tmp_path / "locked")) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        child = following(tmp_path, held_up)
        child.terminate()
        assert_saved(tmp_path, child)


@pytest.mark.process
def test_a_command_that_is_asked_twice_or_frozen_lets_its_processes_save(tmp_path: Path) -> None:
    child = following(tmp_path, "at once")
    child.terminate()
    time.sleep(0.2)
    child.terminate()
    time.sleep(0.2)
    child.send_signal(signal.SIGSTOP)
    time.sleep(0.7)  # longer than it has to end
    child.send_signal(signal.SIGCONT)
    assert_saved(tmp_path, child)


@pytest.mark.process
def test_processes_that_take_too_long_to_save_are_killed_and_that_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt() -> None:
        if len(pids(tmp_path)) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(local, "GRACE_SECONDS", 0.0)
    with pytest.raises(LaunchError, match="did not end within 0 s, and were killed"):
        run(tmp_path, "stuck", interrupt, interval=0.05)
    assert not any(psutil.pid_exists(pid) for pid in pids(tmp_path))


@pytest.mark.process
def test_one_process_needs_no_launcher_and_is_told_all_that_it_would_tell(tmp_path: Path) -> None:
    """What the process finds in its environment and on its command line, and how its failure is told."""
    with pytest.raises(LaunchError, match="^the training processes ended with exit code -9; their output is in "):
        run(tmp_path, "die", processes=1)
    (rank,) = tmp_path.glob("rank-*")
    _, world, _, address, _ = rank.read_text().split()
    assert (rank.name, world, address) == ("rank-0", "1", "127.0.0.1")
    assert (tmp_path / "log.txt").read_text() == "rank 0 speaks\n"


def test_the_launchers_variables_are_set_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where this fails, look what DeepSpeed's launcher sets now, and repair `launch_environment`."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    spec = importlib.util.find_spec("deepspeed")
    assert spec is not None
    assert spec.origin is not None
    source = Path(spec.origin).with_name("launcher").joinpath("launch.py").read_text()
    theirs = set(re.findall(r'current_env\["?(\w+)"?\] = (?!f"\{cores)', source))
    found = local.launch_environment(Topology(processes=1))
    assert theirs
    assert theirs <= set(found)
    assert found["CUDA_VISIBLE_DEVICES"] == "5"


@pytest.mark.parametrize(("visible", "expected"), [(None, ["0", "1"]), ("3,5,7", ["3", "5"]), ("GPU-a,GPU-b", None)])
def test_the_devices_are_those_that_may_be_seen(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, expected: list[str] | None
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    (world,) = [part for part in local.launch_command("m", [], Topology(processes=2)) if "--world_info=" in part]
    slots = json.loads(base64.urlsafe_b64decode(world.partition("=")[2]))
    assert slots == {"localhost": expected or ["GPU-a", "GPU-b"]}


def test_too_few_gpus_are_told_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "has_gpu", lambda: True)
    monkeypatch.setattr(local, "gpus", lambda: 1)
    with pytest.raises(ValueError, match="localhost: expected a GPU for each of 2 processes, found 1"):
        local.check_host(Topology(processes=2))


def test_the_error_is_found_among_what_a_launcher_prints(tmp_path: Path) -> None:
    log = tmp_path / "log"
    output = (
        "[INFO] launching\n"
        "[rank1]: Traceback (most recent call last):\n"
        "[rank1]:   File x\n"
        "[rank1]: torch.OutOfMemoryError: CUDA out of memory\n"
        "Traceback (most recent call last):\n"
        "subprocess.CalledProcessError: Command 'x' returned\n"
    )
    assert error_of(output, 1, log).startswith("[rank1]: torch.OutOfMemoryError: CUDA out of memory")
    assert (
        error_of(output + "error: runs/x: expected this, found that\n", 1, log) == "runs/x: expected this, found that"
    )
    assert "exit code -9" in error_of("nothing said", -9, log)
    assert str(log) in error_of("nothing said", -9, log)
