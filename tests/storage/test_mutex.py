"""One process at a time does a job on a store; a killed one holds nothing."""

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from storage import EncodingStore
from storage.locks import lease
from storage.locks.mutex import job_mutex
from storage.maintenance.gc import collect
from storage.maintenance.verify import verify
from tests.python_path import python_path

HOLD = """
import sys
from storage import EncodingStore
from storage.locks.mutex import job_mutex
with job_mutex(EncodingStore.open(sys.argv[1]).path, "retrain") as mutex:
    print("ours" if mutex.is_ours else mutex.taken_by, flush=True)
    sys.stdin.read()
"""


def hold(store: EncodingStore) -> subprocess.Popen[str]:
    """A process that holds the mutex until its input ends."""
    command = [sys.executable, "-c", HOLD, str(store.path)]
    env = {**os.environ, "PYTHONPATH": python_path(Path(__file__).resolve().parents[2])}
    child = subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "ours\n"
    return child


@pytest.fixture
def store(tmp_path: Path) -> EncodingStore:
    return EncodingStore.create(tmp_path / "store")


@pytest.mark.process
def test_the_second_is_told_who_holds_it_and_may_wait(store: EncodingStore) -> None:
    child = hold(store)
    with job_mutex(store.path, "retrain") as mutex:
        assert not mutex.is_ours
        assert f"process {child.pid} on {socket.gethostname()}, since 2" in str(mutex.taken_by)
    with job_mutex(store.path, "another job") as mutex:
        assert mutex.is_ours
    assert child.stdin is not None
    threading.Timer(0.5, child.stdin.close).start()
    with job_mutex(store.path, "retrain", wait=60) as mutex:
        assert mutex.is_ours
    child.wait()
    with job_mutex(store.path, "retrain") as mutex:
        assert mutex.is_ours
    assert verify(store) == []
    collect(store)


@pytest.mark.process
def test_a_killed_process_holds_nothing(store: EncodingStore) -> None:
    child = hold(store)
    child.kill()
    child.communicate()
    with job_mutex(store.path, "retrain") as mutex:
        assert mutex.is_ours


def test_an_error_ends_it(store: EncodingStore) -> None:
    with pytest.raises(ZeroDivisionError), job_mutex(store.path, "retrain"):
        raise ZeroDivisionError
    with job_mutex(store.path, "retrain") as mutex:
        assert mutex.is_ours


def test_in_an_object_store(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = EncodingStore.create(s3_url)
    with job_mutex(store.path, "retrain") as ours, job_mutex(store.path, "retrain") as other:
        assert ours.is_ours
        assert f"process {os.getpid()} on" in str(other.taken_by)
        monkeypatch.setattr(lease, "STALE_AFTER", 0.0)
        with job_mutex(store.path, "retrain") as late:
            assert late.is_ours
    with job_mutex(store.path, "retrain") as again:
        assert again.is_ours
