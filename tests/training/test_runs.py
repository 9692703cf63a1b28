"""Whole training runs: results, resuming, several processes, mistakes."""

from __future__ import annotations

import json
import math
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from llmdiff.adapter import LLMAdapter
from llmdiff.diffusion.base import load_unet
from llmdiff.training import TrainConfig, lock
from llmdiff.training.metrics import MetricLogger
from llmdiff.training.setup import Run
from llmdiff.training.state import complete, read_state
from llmdiff.training.worker import main
from tests.adapter import tiny
from tests.hosts import two_hosts
from tests.training import training_run
from tests.waiting import wait_until

pytestmark = pytest.mark.process


def train(config: TrainConfig) -> Path | None:
    from llmdiff.training.loop import train

    return train(training_run.resolved(config))


DRAWING = {"sample_every": 3, "validation_prompts": ("caption 1", "caption 2"), "validation_steps": 2}


@pytest.fixture(scope="session")
def finished(parts: Path) -> TrainConfig:
    """An uninterrupted run."""
    config = training_run.config(parts, "finished", **DRAWING)
    assert train(config) == Path(config.output) / "adapter"
    return config


def test_a_run_leaves_an_adapter_that_loads(finished: TrainConfig, parts: Path) -> None:
    unet = load_unet(finished.base)
    adapter = LLMAdapter.load(Path(finished.output) / "adapter", unet)
    assert adapter.config.encoder_fingerprint == finished.fingerprint
    assert adapter.config.encoder_description == {"kind": "llm", "bands": 1}
    assert adapter.config.store_version == 1
    assert adapter.config.training["learning_rate"] == 1e-2
    assert adapter.config.base_model == str(parts / "base")


def test_metrics_say_what_happened(finished: TrainConfig) -> None:
    rows = training_run.rows(finished)
    assert [row["step"] for row in rows] == list(range(1, 13))
    rates = [row["learning_rate"] for row in rows]
    assert rates[:3] == pytest.approx([1e-2 / 3, 2e-2 / 3, 1e-2])
    assert sorted(rates[2:], reverse=True) == rates[2:]
    assert rates[-1] < 5e-4
    assert all(row["grad_norm"] > 0 for row in rows)
    assert {len(row["loss_by_timestep"]) for row in rows} == {4}
    assert rows[0]["weights"][0] != rows[-1]["weights"][0]
    assert set(rows[0]["weights"][0]) == {"layer", "original", "new"}
    timed = json.loads((Path(finished.output) / "metrics.jsonl").read_text().splitlines()[0])
    assert timed["samples_per_second"] > 0
    assert 0 <= timed["data_wait_share"] <= 1


def test_checkpoints_hold_what_is_trained_and_nothing_frozen(finished: TrainConfig) -> None:
    folder = Path(finished.output) / "checkpoints"
    assert [path.name for path in complete(folder)] == ["step-00000008", "step-00000012"]
    names = {"adapter.safetensors", "adapter_config.json", "ema", "optimizer.safetensors", "state.json"}
    names.add("manifest.json")
    assert {path.name for path in (folder / "step-00000012").iterdir()} == names
    unet = load_unet(finished.base)
    adapter = tiny.adapter(unet)
    moments = load_file(folder / "step-00000012" / "optimizer.safetensors")
    assert len(moments) == 2 * len(list(adapter.parameters()))
    for path in (folder / "step-00000012", folder / "step-00000012" / "ema"):
        assert len(LLMAdapter.load(path, unet).state()) == len(adapter.state())


def test_the_result_is_the_average_and_the_last_weights_lie_beside_it(finished: TrainConfig) -> None:
    output = Path(finished.output)
    last = output / "checkpoints" / "step-00000012"
    results = {}
    for name, saved in (("adapter", last / "ema"), ("adapter-raw", last)):
        results[name] = load_file(output / name / "adapter.safetensors")
        expected = load_file(saved / "adapter.safetensors")
        assert results[name].keys() == expected.keys()
        for key, tensor in expected.items():  # the result may be written in fp16
            torch.testing.assert_close(results[name][key].float(), tensor, rtol=1e-3, atol=1e-6)
    assert any(not torch.equal(results["adapter"][key], results["adapter-raw"][key]) for key in results["adapter"])


def test_a_finished_run_has_nothing_left_to_do(finished: TrainConfig) -> None:
    before = training_run.rows(finished)
    train(finished)
    assert training_run.rows(finished) == before


KILLED = """
import os, signal, sys
import deepspeed  # once for all
from llmdiff.adapter import LLMAdapter
from llmdiff.training import checkpoint, loop, metrics, validation
from llmdiff.training.config import TrainConfig

config = TrainConfig.read(sys.argv[2])

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

def before(owner, name, times):
    wrapped, left = getattr(owner, name), [times]
    def call(*arguments, **options):
        left[0] -= 1
        if left[0] == 0:
            die()
        return wrapped(*arguments, **options)
    setattr(owner, name, call)

points = [  # step reached in each life, resuming from what the last one saved
    ("before the first checkpoint", metrics.MetricLogger, "advance", 3),
    ("while a sample is drawn", validation, "write_file", 1),
    ("after it, before the checkpoint", metrics.MetricLogger, "advance", 4),
    ("while the weights are saved", checkpoint, "write_adapter", 2),
    ("before the checkpoint counts", checkpoint, "write_last", 1),
    ("before the old ones are removed", checkpoint, "complete", 2),
    ("between two checkpoints", metrics.MetricLogger, "advance", 3),
    ("while the result is saved", LLMAdapter, "save", 2),
]
for place, owner, name, times in points:
    child = os.fork()
    if child == 0:
        before(owner, name, times)
        loop.train(config)
        os._exit(0)
    signalled = os.waitpid(child, 0)[1]
    steps = sorted(int(path.name[5:]) for path in checkpoint.complete(loop.Path(config.output) / "checkpoints"))
    print("KILLED", place, signalled, steps)
"""


def test_killed_anywhere_and_resumed_losses_samples_and_weights_are_the_same(finished: TrainConfig, root: Path) -> None:
    config = training_run.config(root, "killed", **DRAWING)
    worker = training_run.start_worker(config, command=["-c", KILLED])
    printed, _ = worker.communicate(timeout=200)
    assert worker.returncode == 0, printed
    assert re.findall("KILLED (.*)", printed) == [
        "before the first checkpoint 9 []",
        "while a sample is drawn 9 []",
        "after it, before the checkpoint 9 []",
        "while the weights are saved 9 []",
        "before the checkpoint counts 9 []",
        "before the old ones are removed 9 [4, 8]",
        "between two checkpoints 9 [4, 8]",
        "while the result is saved 9 [8, 12]",
    ], printed
    assert not (Path(config.output) / "adapter").exists()
    train(config)
    assert training_run.rows(config) == training_run.rows(finished)
    for name in ("adapter", "checkpoints/step-00000012", "checkpoints/step-00000012/ema", "samples"):
        expected = {path.name: path.read_bytes() for path in (Path(finished.output) / name).glob("*.safetensors")}
        assert {path.name: path.read_bytes() for path in (Path(config.output) / name).glob("*.safetensors")} == expected
    assert [path.name for path in sorted((Path(config.output) / "samples").iterdir())] == [
        f"step-{step:08d}.safetensors" for step in (3, 6, 9, 12)
    ]


def test_what_was_drawn_past_the_checkpoint_is_gone_and_drawn_anew(finished: TrainConfig, root: Path) -> None:
    config = from_step_8(finished, root / "anew").model_copy(update={"sample_every": 4})
    folder = Path(config.output) / "samples"
    (folder / "step-00000006.png").touch()
    (folder / "step-00000009.png").touch()
    (folder / ".step-00000009.safetensors.1.part").touch()
    train(config)
    names = sorted(path.name for path in folder.iterdir())
    drawn = [f"step-{step:08d}.safetensors" for step in (3, 6, 12)]
    assert names == sorted([*drawn, "step-00000006.png"])
    last = "step-00000012.safetensors"
    again, before = (load_file(of / last)["latents"] for of in (folder, Path(finished.output) / "samples"))
    torch.testing.assert_close(again, before, rtol=1e-5, atol=1e-5)  # seen once to differ in the last bits


def test_a_checkpoint_cut_short_counts_for_nothing(finished: TrainConfig, root: Path) -> None:
    config = training_run.config(root, "cut")
    train(config.model_copy(update={"steps": 12}))
    (Path(config.output) / "checkpoints" / "step-00000012" / "state.json").unlink()
    torn = Path(config.output) / "metrics.jsonl"
    torn.write_text(torn.read_text()[:-20])  # a row half written
    train(config)
    assert training_run.rows(config) == training_run.rows(finished)


def test_a_damaged_checkpoint_is_left_and_the_losses_are_the_same(
    finished: TrainConfig, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = damaged(finished, root / "damaged", "optimizer.safetensors")
    train(config)
    (line,) = [line for line in caplog.messages if "checkpoint left" in line]
    assert "step-00000012/optimizer.safetensors: damaged: expected CRC-32" in line
    assert line.endswith("; going on from step-00000008")
    assert training_run.rows(config) == training_run.rows(finished)
    result = "adapter/adapter.safetensors"
    assert (Path(config.output) / result).read_bytes() == (Path(finished.output) / result).read_bytes()


def test_a_run_whose_checkpoints_are_all_damaged_does_not_begin_again(
    finished: TrainConfig, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = damaged(finished, root / "damaged", "state.json", "ema/adapter.safetensors")
    said = refusal(training_run.resolved(config).path, capsys)
    assert "expected a checkpoint that is whole, found step-00000008, step-00000012, all damaged: " in said
    assert re.search(r"step-00000012/state.json: .*; .*step-00000008/ema/adapter.safetensors: damaged: ", said)
    assert training_run.rows(config) == training_run.rows(finished)


def damaged(run: TrainConfig, output: Path, *names: str) -> TrainConfig:
    """A copy of a run without its result, with a flipped byte in a file of each of its newest checkpoints."""
    shutil.copytree(run.output, output)
    shutil.rmtree(output / "adapter")
    for name, path in zip(names, reversed(complete(output / "checkpoints")), strict=False):
        data = bytearray((path / name).read_bytes())
        data[-2] ^= 1
        (path / name).write_bytes(data)
    return run.model_copy(update={"output": str(output)})


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


@pytest.fixture(scope="session")
def two_process_run(finished: TrainConfig, parts: Path) -> TrainConfig:
    """The same run on two processes, under the launcher."""
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


def from_step_8(run: TrainConfig, output: Path) -> TrainConfig:
    """A copy of a run that was killed after eight steps."""
    shutil.copytree(run.output, output)
    shutil.rmtree(output / "adapter")
    shutil.rmtree(output / "checkpoints" / "step-00000012")
    return run.model_copy(update={"output": str(output)})


def test_another_batch_is_refused_on_resuming(finished: TrainConfig, root: Path) -> None:
    config = from_step_8(finished, root / "other").model_copy(update={"batch_size": 2})
    with pytest.raises(ValueError, match="began with 4 samples a step, found 2 = batch_size 2 x accumulate 1 x 1 proc"):
        train(config)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"batch_size": 4}, {"batch_size": 2, "accumulate": 2}),
        ({"batch_size": 8}, {"batch_size": 2, "accumulate": 4}),
        ({"batch_size": 10}, {"batch_size": 2, "accumulate": 5}),  # of an epoch's last four samples, four parts
    ],
)
def test_accumulated_batches_are_one_batch(root: Path, one: dict[str, int], other: dict[str, int]) -> None:
    settings = {"steps": 6, "min_snr_gamma": 5.0}
    whole, accumulated = (
        training_run.config(root, "whole", **settings, **one),
        training_run.config(root, "parts", **settings, **other),
    )
    train(whole)
    train(accumulated)
    assert training_run.losses(accumulated) == pytest.approx(training_run.losses(whole), rel=1e-5)


def test_a_step_never_spans_two_epochs(root: Path) -> None:
    config = training_run.config(root, batch_size=10, steps=None, epochs=2)
    train(config)
    assert [row["step"] for row in training_run.rows(config)] == list(range(1, 7))
    state = read_state(complete(Path(config.output) / "checkpoints")[-1])
    assert (state.epoch, state.position, state.global_batch) == (1, training_run.SAMPLES, 10)


def test_a_row_of_the_log_may_span_a_checkpoint(root: Path) -> None:
    whole, parts = (training_run.config(root, name, log_every=3, keep_checkpoints=9) for name in ("whole", "parts"))
    train(whole)
    train(parts)
    for step in ("step-00000008", "step-00000012"):
        (Path(parts.output) / "checkpoints" / step / "state.json").unlink()
    train(parts)
    assert training_run.rows(parts) == training_run.rows(whole)


@pytest.mark.parametrize("name", ["zero0", "zero1", "zero2", "zero2-offload", "zero3", "zero3-offload"])
def test_the_shipped_deepspeed_settings_agree(finished: TrainConfig, root: Path, name: str) -> None:
    stage = int(name[4])
    settings = {"validation_prompts": ("caption 1",), "validation_steps": 1, "sample_every": 12}
    config = training_run.config(root, name, zero_stage=stage, deepspeed=str(shipped(name)), **settings)
    train(config)
    assert training_run.losses(config) == pytest.approx(training_run.losses(finished), rel=1e-4)


def test_a_full_disk_leaves_the_last_good_checkpoint(
    finished: TrainConfig, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llmdiff.training import loop

    config, limit, write = training_run.config(root, "full"), resource.getrlimit(resource.RLIMIT_FSIZE), loop.update

    def update(run: Run, rank_batch: loop.RankBatch, metrics: MetricLogger) -> bool:
        if rank_batch.batch.position == 8 and rank_batch.epoch == 1:  # step 8
            resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limit[1]))
        return write(run, rank_batch, metrics)

    monkeypatch.setattr(loop, "update", update)
    try:
        with pytest.raises(OSError, match=r"step-00000008: not saved, with .* MB free"):
            train(config)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    monkeypatch.undo()
    folder = Path(config.output) / "checkpoints"
    assert [path.name for path in folder.iterdir()] == ["step-00000004"]
    train(config)
    assert training_run.rows(config) == training_run.rows(finished)


def test_gradient_checkpointing_changes_no_loss(finished: TrainConfig, root: Path) -> None:
    config = training_run.config(root, gradient_checkpointing=True)
    train(config)
    assert training_run.losses(config) == pytest.approx(training_run.losses(finished), rel=1e-4)


def test_bfloat16_stays_close(finished: TrainConfig, root: Path) -> None:
    config = training_run.config(root, precision="bf16", accumulate=1, deepspeed=str(shipped("cpu")))
    train(config)
    assert training_run.losses(config) == pytest.approx(training_run.losses(finished), rel=0.02)


def test_fp16_stays_close_with_a_loss_scale_that_finds_its_place(
    finished: TrainConfig, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llmdiff.training import optimiser

    curves = []
    for stage in (0, 2, 3):
        config = training_run.config(root, f"half-{stage}", precision="fp16", zero_stage=stage)
        train(config)
        curves.append(training_run.losses(config))
        assert training_run.losses(config) == pytest.approx(training_run.losses(finished), rel=0.02)
        assert read_state(complete(Path(config.output) / "checkpoints")[-1]).loss_scale == 2.0**16
    assert curves[1] == pytest.approx(curves[0], rel=1e-3)
    monkeypatch.setattr(optimiser, "LARGEST_SCALE", 2.0**31)
    train(config := training_run.config(root, "large", precision="fp16", steps=24, skip_limit=1))
    state = read_state(complete(Path(config.output) / "checkpoints")[-1])
    assert state.skipped > 3  # more in a row than the limit
    assert state.loss_scale == 2.0 ** (31 - state.skipped)
    assert state.updates == 24 - state.skipped


def shipped(name: str) -> Path:
    return Path(__file__).resolve().parents[2] / "infra" / "deepspeed" / f"{name}.json"


def test_clip_context_samples_and_accumulation(root: Path) -> None:
    """The other settings together: features of the base beside the LLM's, min-SNR, accumulation, epochs, samples."""
    fingerprints = json.loads((root / "fingerprints.json").read_text())
    config = training_run.config(
        root,
        adapter={"base_context": "clip"},
        base_fingerprint=fingerprints["base"],
        steps=None,
        epochs=4,
        accumulate=2,
        min_snr_gamma=5.0,
        caption_dropout=0.5,
        timestep_exponent=0.5,
        sample_every=6,
        validation_prompts=("caption 1", "caption 2"),
        validation_steps=2,
    )
    train(config)
    assert len(training_run.rows(config)) == 12  # 4 epochs of 6 batches, two a step
    first, last = (load_file(path)["latents"] for path in sorted((Path(config.output) / "samples").iterdir()))
    assert first.shape == (2, 4, 8, 8)
    assert not torch.equal(first, last)
    adapter = LLMAdapter.load(Path(config.output) / "adapter", load_unet(config.base))
    assert adapter.config.base_tokens == tiny.TOKENS


def test_the_control_run_reads_the_bases_own_features(root: Path) -> None:
    fingerprints = json.loads((root / "fingerprints.json").read_text())
    config = training_run.config(root, fingerprint=fingerprints["base"], steps=2)
    train(config)
    adapter = LLMAdapter.load(Path(config.output) / "adapter", load_unet(config.base))
    assert (adapter.config.encoder, adapter.config.encoding_dim) == ("base", tiny.WIDTH)


def test_bands_are_trained(root: Path) -> None:
    training_run.own_store(root, bands=2)
    config = training_run.config(root, steps=3, caption_dropout=0.5)
    train(config)
    adapter = LLMAdapter.load(Path(config.output) / "adapter", load_unet(config.base))
    assert adapter.config.bands == 2
    assert not torch.equal(adapter.phi.g, torch.ones(2))


def test_noise_that_the_encoder_left_to_training_is_drawn_there(finished: TrainConfig, root: Path) -> None:
    training_run.own_store(root, noise="fresh", noise_std=[1.0])
    curves = {}
    for name, changes in {"a": {}, "b": {}, "parts": {"batch_size": 2, "accumulate": 2}}.items():
        train(config := training_run.config(root, name, **changes))
        curves[name] = training_run.losses(config)
    assert curves["a"] == curves["b"]
    assert curves["parts"] == pytest.approx(curves["a"], rel=1e-5)
    assert max(abs(a - b) for a, b in zip(curves["a"], training_run.losses(finished), strict=True)) > 1e-3
    description = LLMAdapter.load(Path(config.output) / "adapter", load_unet(config.base)).config.encoder_description
    assert description["noise_std"] == [1.0]


def test_encodings_that_do_not_say_their_noise_are_refused(root: Path) -> None:
    training_run.own_store(root, noise="fresh")
    with pytest.raises(ValueError, match="don't say how much"):
        train(training_run.config(root))


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_sample_that_gives_no_finite_loss_costs_its_step_alone(root: Path, stage: int) -> None:
    training_run.own_store(root, broken=True)
    config = training_run.config(root, zero_stage=stage)
    train(config)
    rows = training_run.rows(config)
    assert rows[-1]["skipped"] == 2  # one in each of two epochs
    assert len(rows) == 10
    assert all(math.isfinite(row["loss"]) for row in rows)
    state = read_state(complete(Path(config.output) / "checkpoints")[-1])
    assert (state.step, state.updates, state.skipped) == (12, 10, 2)
    for name in ("adapter", "adapter-raw"):
        tensors = load_file(Path(config.output) / name / "adapter.safetensors").values()
        assert all(tensor.isfinite().all() for tensor in tensors)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_gradients_that_stay_not_finite_stop_the_run_in_its_last_good_state(
    finished: TrainConfig, root: Path, monkeypatch: pytest.MonkeyPatch, stage: int
) -> None:
    from llmdiff.training import objective

    config = training_run.config(root, zero_stage=stage)
    forward, calls = objective.Objective.forward, []

    def broken(self: objective.Objective, *arguments: object) -> tuple[torch.Tensor, ...]:
        loss, *values = forward(self, *arguments)  # type: ignore[arg-type]
        calls.append(loss)
        if len(calls) > 6:
            loss = loss + (loss * 0).sqrt()  # 0, with a gradient that is NaN
        assert loss.isfinite()
        return loss, *values

    monkeypatch.setattr(objective.Objective, "forward", broken)
    with pytest.raises(FloatingPointError, match=r"step 11: 5 steps in a row .* has the last good state"):
        train(config)
    saved = complete(Path(config.output) / "checkpoints")[-1]
    assert (saved.name, read_state(saved).updates) == ("step-00000011", 6)
    assert all(tensor.isfinite().all() for tensor in load_file(saved / "ema" / "adapter.safetensors").values())
    assert [row["step"] for row in training_run.rows(config)] == [1, 2, 3, 4, 5, 6]
    monkeypatch.undo()
    train(config)
    assert [row["step"] for row in training_run.rows(config)] == [1, 2, 3, 4, 5, 6, 12]
    assert training_run.losses(config)[:6] == pytest.approx(training_run.losses(finished)[:6], rel=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fingerprint": "f00"}, "expected encodings of f00, found"),
        ({"store_version": 99}, "version"),
        ({"store": "nowhere"}, "nowhere"),
    ],
)
def test_mistakes_are_named_when_the_run_is_resolved(root: Path, changes: dict[str, object], message: str) -> None:
    config = training_run.config(root, **changes)
    with pytest.raises((ValueError, OSError), match=message):
        training_run.resolved(config)
    assert not Path(config.output).exists()


def test_a_mistake_that_the_process_finds_is_one_line(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    unheard = training_run.config(root, sample_every=2, validation_prompts=("unheard of",))
    assert "no encoding of the caption 'unheard of'" in refusal(training_run.resolved(unheard).path, capsys)


def test_a_process_resolves_nothing(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It takes the file of `resolve`, for as many processes as there are."""
    config = training_run.config(root)
    assert "expected a resolved run" in refusal(config.write(root / "run.json"), capsys)
    for_two = training_run.resolved(config, processes=2).path
    assert "expected 2 processes, as it was resolved for, found 1" in refusal(for_two, capsys)


def refusal(path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that the training process fails with."""
    assert main(["--config", str(path)]) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    return line


def test_another_configuration_needs_another_folder(root: Path) -> None:
    train(training_run.config(root, steps=2))
    with pytest.raises(ValueError, match=r"began with learning_rate 0.01, found 0.02"):
        train(training_run.config(root, steps=2, learning_rate=0.02))
    train(training_run.config(root, steps=2, log_every=2))


def wait_for(path: Path, worker: subprocess.Popen[str], lines: int = 0, seconds: float = 120) -> None:
    wait_until(lambda: path.exists() and path.read_text().count("\n") >= lines, seconds, worker, interval=0.01)
