"""Workers whose clocks are hours off: neither steals what a living one is writing, and no row is there twice."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from storage import EncodingStore, ShardWriter
from storage.maintenance.verify import verify
from tests.python_path import python_path
from tests.storage import synthetic, writer_process

pytestmark = pytest.mark.skipif(
    shutil.which("faketime") is None, reason="needs faketime: on Debian, apt install faketime"
)
ROOT = Path(__file__).resolve().parents[2]
HOURS = 5
"""More than the two that a lease lasts in an object store."""

SKEWED = """
import sys, time
from storage import EncodingStore
from storage.maintenance.gc import collect
from storage.maintenance.verify import verify
from tests.storage import synthetic

def removed(store):
    try:
        return len(collect(store).paths)
    except ValueError as error:
        return str(error)

path, fingerprint, source = sys.argv[1:]
print("clock", time.time())
store = EncodingStore.open(path)
print("removed", removed(store))
synthetic.encode(store, fingerprint, source)
store = EncodingStore.open(path)
print("verified", verify(store))
"""


def work(skew: int, path: str, fingerprint: str, source: str) -> list[str]:
    """What a worker prints that collects garbage and encodes a source; its files keep the times of the disk's clock."""
    env = {**os.environ, "PYTHONPATH": python_path(ROOT), "NO_FAKE_STAT": "1", "DONT_FAKE_MONOTONIC": "1"}
    command = ["faketime", "-f", f"{skew:+d}h", sys.executable, "-c", SKEWED, path, fingerprint, source]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.process
@pytest.mark.parametrize("skew", [HOURS, -HOURS])
def test_a_worker_whose_clock_is_off(skew: int, tmp_path: Path) -> None:
    check_beside_a_writer("disk", str(tmp_path / "store"), skew)


@pytest.mark.parametrize("skew", [HOURS, -HOURS])
def test_a_worker_whose_clock_is_off_at_an_object_store(skew: int, s3_url: str) -> None:
    check_beside_a_writer("s3", s3_url, skew)


def check_beside_a_writer(kind: str, path: str, skew: int) -> None:
    """A worker whose clock is hours off collects and encodes while another one writes."""
    store, llm = synthetic.make_store(path)
    claiming = Path(path, "writing", "claiming.new")
    synthetic.encode(store, llm, "a")
    with ShardWriter(store, "living", llm) as writer:
        writer.add_encoding("mine", synthetic.encoding("mine"))
        if kind == "disk":
            writer_process.flush(writer)
            claiming.touch()
        clock, removed, verified = work(skew, path, llm, "b")
        assert abs(float(clock.split()[1]) - time.time() - 3600 * skew) < 300
        assert removed == "removed 0" if kind == "disk" else "living.lock: a writer is at work" in removed
        assert verified == "verified []"
        assert synthetic.encode(EncodingStore.open(path), llm, "b") == 0, "its rows are there for all"
        assert kind == "s3" or claiming.exists(), "somebody is just claiming"
    assert work(-skew, path, llm, "b")[2] == "verified []"
    store = EncodingStore.open(path)
    assert synthetic.rows_of(store, llm) == synthetic.expected_rows("a") + synthetic.expected_rows("b")
    assert store.encoding(llm, "mine") is not None
    assert store.locks.held() == []
    assert verify(store) == []
