"""One process at a time does a job on a store; a killed one's turn is over."""

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from storage import EncodingStore
from storage.locks import lease
from storage.locks.mutex import turn
from storage.maintenance.gc import collect

HOLD = """
import sys
from storage import EncodingStore
from storage.locks.mutex import turn
with turn(EncodingStore.open(sys.argv[1]), "retrain") as holder:
    print("ours" if holder is None else holder, flush=True)
    sys.stdin.read()
"""


def hold(store: EncodingStore) -> subprocess.Popen[str]:
    """A process that holds the turn until its input ends."""
    command = [sys.executable, "-c", HOLD, str(store.path)]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    child = subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "ours\n"
    return child


@pytest.fixture
def store(tmp_path: Path) -> EncodingStore:
    return EncodingStore.create(tmp_path / "store")


@pytest.mark.process
def test_the_second_is_told_whose_turn_it_is_and_may_wait(store: EncodingStore) -> None:
    child = hold(store)
    with turn(store, "retrain") as holder:
        assert holder is not None
        assert f"process {child.pid} on {socket.gethostname()}, since 2" in holder
    with turn(store, "another job") as holder:
        assert holder is None
    assert child.stdin is not None
    threading.Timer(0.5, child.stdin.close).start()
    with turn(store, "retrain", wait=60) as holder:
        assert holder is None
    child.wait()
    with turn(store, "retrain") as holder:
        assert holder is None
    assert store.verify() == []
    collect(store)


@pytest.mark.process
def test_a_killed_ones_turn_is_over(store: EncodingStore) -> None:
    child = hold(store)
    child.kill()
    child.communicate()
    with turn(store, "retrain") as holder:
        assert holder is None


def test_an_error_ends_it(store: EncodingStore) -> None:
    with pytest.raises(ZeroDivisionError), turn(store, "retrain"):
        raise ZeroDivisionError
    with turn(store, "retrain") as holder:
        assert holder is None


def test_in_an_object_store(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = EncodingStore.create(s3_url)
    with turn(store, "retrain") as ours, turn(store, "retrain") as other:
        assert ours is None
        assert f"process {os.getpid()} on" in str(other)
        monkeypatch.setattr(lease, "STALE_AFTER", 0.0)
        with turn(store, "retrain") as late:
            assert late is None
    with turn(store, "retrain") as again:
        assert again is None
