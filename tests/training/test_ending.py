"""Training processes that are asked to end, and two runs that want one folder."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from infra.launch.local import GRACE_SECONDS
from llmdiff.training import TrainConfig, lock
from llmdiff.training.checkpoints.state import complete
from tests.training import training_run
from tests.training.training_run import train, wait_for
from tests.waiting import wait_until

pytestmark = pytest.mark.process


LOADED = """
import sys
from llmdiff.training.worker import main
code = main(sys.argv[1:])
heavy = ("transformers.models.", ".modeling_"), ("llmdiff.encoder", ""), ("diffusers.models.autoencoders.", "coder_kl")
found = [n for n in sys.modules for start, part in heavy if n.startswith(start) and part in n]
print("LOADED", [n for n in found if not n.endswith(("modeling_auto", "modeling_bloom"))])  # which peft imports
sys.exit(code)
"""


@pytest.fixture(scope="session")
def stopped_run(parts: Path) -> tuple[TrainConfig, int, str]:
    """A long run in a process of its own, asked to end after two steps; its exit code and output."""
    config = training_run.config(parts, "stopped", steps=100_000, checkpoint_every=100_000)
    worker = training_run.start_worker(config, command=["-c", LOADED])
    wait_for(Path(config.output) / "metrics.jsonl", worker, lines=2)
    worker.terminate()
    output, _ = worker.communicate(timeout=60)
    return config, worker.returncode, output


def test_sigterm_saves_and_exits_cleanly(stopped_run: tuple[TrainConfig, int, str]) -> None:
    config, code, output = stopped_run
    assert code == 0, output
    (saved,) = complete(Path(config.output) / "checkpoints")
    assert json.loads((saved / "state.json").read_text())["step"] == training_run.rows(config)[-1]["step"]
    assert not (Path(config.output) / "adapter").exists()


def test_neither_llm_nor_autoencoder_is_loaded(stopped_run: tuple[TrainConfig, int, str]) -> None:
    """The base folder has neither, and no class of theirs is even imported."""
    config, _, output = stopped_run
    assert sorted(path.name for path in Path(config.base).iterdir()) == ["scheduler", "unet"]
    assert "LOADED []" in output


@pytest.mark.parametrize("when", ["at once", "while loading"])
def test_a_sigterm_before_the_first_step_ends_well_too(root: Path, when: str) -> None:
    config = training_run.config(root)
    worker = training_run.start_worker(config)
    if when == "at once":
        wait_until(lambda: catches_sigterm(worker.pid), 120, worker, interval=0.01)
    else:
        wait_for(Path(config.output) / "lock", worker)
    worker.terminate()
    output, _ = worker.communicate(timeout=60)
    assert worker.returncode == 0, output
    assert complete(Path(config.output) / "checkpoints") == []


def catches_sigterm(pid: int) -> bool:
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigCgt")]
    return bool(int(line.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


PARENT = """
import subprocess, sys
child = "import signal, time; from llmdiff.training.worker import end_with_parent; end_with_parent()\\n"
child += "signal.signal(signal.SIGTERM, lambda *_: (print('asked', flush=True), exit()))\\n"
child += "print('ready', flush=True); time.sleep(60)"
subprocess.Popen([sys.executable, "-c", child]).wait()
"""


def test_a_worker_is_asked_to_end_when_its_launcher_is_killed() -> None:
    parent = training_run.start_python("-c", PARENT)
    assert parent.stdout is not None
    assert parent.stdout.readline() == "ready\n"
    parent.kill()
    assert parent.stdout.readline() == "asked\n"
    parent.communicate()


def test_two_runs_do_not_write_into_one_folder(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = training_run.config(root, steps=1)
    monkeypatch.setattr(lock, "PATIENCE", 0.0)
    with (
        lock.locked(config.output),
        pytest.raises(ValueError, match=rf"another run is writing here: process {os.getpid()} on "),
    ):
        train(config)
    train(config)


def test_a_run_waits_for_another_one_that_was_ended_to_save() -> None:
    assert lock.PATIENCE > GRACE_SECONDS
