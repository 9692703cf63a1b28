"""One run on several processes and hosts: the losses of one process, and going on with more or fewer."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from llmdiff.training import TrainConfig
from llmdiff.training.checkpoints.state import complete, read_state
from tests.hosts import two_hosts
from tests.training import training_run
from tests.training.training_run import damaged, from_step_8, train, wait_for

pytestmark = pytest.mark.process


@pytest.fixture(scope="session")
def two_process_run(finished: TrainConfig, parts: Path) -> TrainConfig:
    """The run on two processes, under the launcher."""
    config = training_run.config(parts, "two", batch_size=2)
    worker = training_run.start_worker(config, processes=2)
    output, _ = worker.communicate(timeout=200)
    assert worker.returncode == 0, output
    return config


def test_two_processes_see_the_same_losses(finished: TrainConfig, two_process_run: TrainConfig) -> None:
    assert training_run.losses(two_process_run) == pytest.approx(training_run.losses(finished), rel=1e-4)
    for one, other in zip(training_run.rows(finished), training_run.rows(two_process_run), strict=True):
        assert other["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-3)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_run_of_two_processes_goes_on_with_one(
    finished: TrainConfig, two_process_run: TrainConfig, root: Path, stage: int
) -> None:
    config = from_step_8(two_process_run, root / "one").model_copy(update={"batch_size": 4, "zero_stage": stage})
    train(config)
    assert training_run.losses(config)[:8] == training_run.losses(two_process_run)[:8]
    assert training_run.losses(config) == pytest.approx(training_run.losses(finished), rel=1e-4)


LLMDIFF = str(Path(sys.executable).with_name("llmdiff"))
FIRST_HOST = """
import sys
from pathlib import Path
from infra.launch.hostfile import topology_of
from infra.launch.run import run_training

hostfile, port, output = sys.argv[1:]
run_training(Path(output), topology_of(1, hostfile, 0, int(port)), poll=lambda: None)
"""


def test_two_hosts_see_the_same_losses_and_one_goes_on_when_they_end(
    finished: TrainConfig, two_process_run: TrainConfig, root: Path
) -> None:
    """A launcher on each; the second one's gets a SIGTERM. Long validation samples leave time for it."""
    slow = {"sample_every": 1, "validation_prompts": ("caption 1",), "validation_steps": 40}
    config = training_run.config(root, "hosts", batch_size=2, **slow)
    with two_hosts() as hosts:
        hostfile, port = hosts.hostfile(root / "hostfile"), hosts.port()
        joining = ["train", "--store", config.store, "--diffusion", config.base, "--output", config.output]
        joining += ["--hostfile", hostfile, "--node-rank", "1", "--master-port", port]
        second = training_run.start_python(LLMDIFF, *joining, enter=hosts.enter[1], **hosts.environment)
        training_run.resolved(config, processes=2)
        place = (hostfile, port, config.output)
        first = training_run.start_python("-c", FIRST_HOST, *place, enter=hosts.enter[0], **hosts.environment)
        wait_for(Path(config.output) / "metrics.jsonl", first, lines=5, seconds=400)
        second.terminate()
        outputs = [node.communicate(timeout=200)[0] for node in (first, second)]
        assert [first.returncode, second.returncode] == [0, 143], outputs
    steps = len(training_run.rows(config))
    assert read_state(complete(Path(config.output) / "checkpoints")[-1]).step == steps >= 5
    assert training_run.losses(config) == pytest.approx(training_run.losses(two_process_run)[:steps], rel=1e-4)
    train(config.model_copy(update={"batch_size": 4, "sample_every": None}))
    assert training_run.losses(config)[:steps] == pytest.approx(training_run.losses(two_process_run)[:steps], rel=1e-4)
    assert training_run.losses(config) == pytest.approx(training_run.losses(finished), rel=1e-4)


def test_a_run_of_one_process_goes_on_with_two_that_leave_out_the_same_steps(root: Path) -> None:
    training_run.own_store(root, broken=True)
    train(one := training_run.config(root, "one"))
    both = damaged(one, root / "both", "adapter.safetensors")  # both go on from the one before it
    both = both.model_copy(update={"batch_size": 2, "zero_stage": 3})
    assert training_run.run_ranks(both, 2).count("going on from step-00000008") == 1
    assert [row["step"] for row in training_run.rows(both)] == [1, 2, 3, 5, 6, 7, 8, 9, 10, 12]
    assert training_run.losses(both) == pytest.approx(training_run.losses(one), rel=1e-4)
