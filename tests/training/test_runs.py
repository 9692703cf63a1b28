"""Whole training runs: results, resuming, several processes, mistakes."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from llmdiff.adapter import LLMAdapter
from llmdiff.diffusion.base import load_unet
from llmdiff.training import TrainConfig
from llmdiff.training.checkpoint import complete
from llmdiff.training.worker import main
from tests.adapter import tiny
from tests.training import runs


def train(config: TrainConfig) -> Path | None:
    from llmdiff.training.loop import train

    return train(config)


@pytest.fixture(scope="session")
def finished(parts: Path) -> TrainConfig:
    """An uninterrupted run."""
    config = runs.config(parts, "finished")
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
    rows = runs.rows(finished)
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
    state = torch.load(folder / "step-00000012" / "mp_rank_00_model_states.pt", weights_only=False)["module"]
    unet = tiny.unet()
    assert len(state) == len(tiny.adapter(unet).state_dict())
    assert all(name.startswith("adapter.") for name in state)


def test_the_result_is_the_average(finished: TrainConfig) -> None:
    output = Path(finished.output)
    result = load_file(output / "adapter" / "adapter.safetensors")
    average = load_file(output / "checkpoints" / "step-00000012" / "average.safetensors")
    assert result.keys() == average.keys()
    assert all(torch.equal(result[name], average[name]) for name in result)


def test_a_finished_run_has_nothing_left_to_do(finished: TrainConfig) -> None:
    before = runs.rows(finished)
    train(finished)
    assert runs.rows(finished) == before


def test_killed_and_resumed_the_loss_curve_is_the_same(finished: TrainConfig, root: Path) -> None:
    config = runs.config(root, "killed")
    worker = runs.start_worker(config)
    wait_for(Path(config.output) / "checkpoints" / "step-00000004" / "state.json", worker)
    os.kill(worker.pid, signal.SIGKILL)
    worker.wait()
    assert not (Path(config.output) / "adapter").exists()
    train(config)
    assert runs.rows(config) == runs.rows(finished)
    for name in ("adapter", "checkpoints/step-00000012"):
        for path in (Path(config.output) / name).glob("*.safetensors"):
            assert path.read_bytes() == (Path(finished.output) / name / path.name).read_bytes()


def test_a_checkpoint_cut_short_counts_for_nothing(finished: TrainConfig, root: Path) -> None:
    config = runs.config(root, "cut")
    train(config.model_copy(update={"steps": 12}))
    (Path(config.output) / "checkpoints" / "step-00000012" / "state.json").unlink()
    torn = Path(config.output) / "metrics.jsonl"
    torn.write_text(torn.read_text()[:-20])  # a row half written
    train(config)
    assert runs.rows(config) == runs.rows(finished)


LOADED = """
import sys
from llmdiff.training.worker import main
code = main(sys.argv[1:])
heavy = ("transformers.models.", ".modeling_"), ("llmdiff.encoder", ""), ("diffusers.models.autoencoders.", "coder_kl")
print("LOADED", [n for n in sys.modules for start, part in heavy if n.startswith(start) and part in n])
sys.exit(code)
"""


@pytest.fixture(scope="session")
def stopped(parts: Path) -> tuple[TrainConfig, int, str]:
    """A long run in a process of its own, asked to end after two steps; its exit code and output."""
    config = runs.config(parts, "stopped", steps=100_000, checkpoint_every=100_000)
    worker = runs.start_worker(config, command=["-c", LOADED])
    wait_for(Path(config.output) / "metrics.jsonl", worker, lines=2)
    worker.terminate()
    output, _ = worker.communicate(timeout=60)
    return config, worker.returncode, output


def test_sigterm_saves_and_exits_cleanly(stopped: tuple[TrainConfig, int, str]) -> None:
    config, code, output = stopped
    assert code == 0, output
    (saved,) = complete(Path(config.output) / "checkpoints")
    assert json.loads((saved / "state.json").read_text())["step"] == runs.rows(config)[-1]["step"]
    assert not (Path(config.output) / "adapter").exists()


def test_neither_llm_nor_autoencoder_is_loaded(stopped: tuple[TrainConfig, int, str]) -> None:
    """The base folder has neither, and no class of theirs is even imported."""
    config, _, output = stopped
    assert sorted(path.name for path in Path(config.base).iterdir()) == ["scheduler", "unet"]
    assert "LOADED []" in output


@pytest.mark.slow
def test_two_processes_under_the_launcher(finished: TrainConfig, root: Path) -> None:
    config = runs.config(root, "two", batch_size=2)
    worker = runs.start_worker(config, processes=2)
    output, _ = worker.communicate(timeout=200)
    assert worker.returncode == 0, output
    assert len(runs.losses(config)) == 12
    one, two = (sum(runs.losses(run)) / 12 for run in (finished, config))
    assert two == pytest.approx(one, rel=0.1)  # the same objective over the same samples, other noise
    state = json.loads((Path(config.output) / "checkpoints" / "step-00000012" / "state.json").read_text())
    assert state["processes"] == 2
    with pytest.raises(ValueError, match="saved by 2 processes, resumed by 1"):
        train(config)


def test_a_row_of_the_log_may_span_a_checkpoint(root: Path) -> None:
    whole, parts = (runs.config(root, name, log_every=3, keep_checkpoints=9) for name in ("whole", "parts"))
    train(whole)
    train(parts)
    for step in ("step-00000008", "step-00000012"):
        (Path(parts.output) / "checkpoints" / step / "state.json").unlink()
    train(parts)
    assert runs.rows(parts) == runs.rows(whole)


@pytest.mark.parametrize("name", ["zero0", "zero1", "zero2", "zero2-offload", "zero3"])
def test_the_shipped_deepspeed_settings_agree(finished: TrainConfig, root: Path, name: str) -> None:
    stage = int(name[4])
    settings = {"validation_prompts": ("caption 1",), "validation_steps": 1, "sample_every": 12}
    config = runs.config(root, name, zero_stage=stage, deepspeed=str(shipped(name)), **settings)
    train(config)
    assert runs.losses(config) == pytest.approx(runs.losses(finished), rel=1e-4)


def test_a_full_disk_leaves_the_last_good_checkpoint(finished: TrainConfig, root: Path) -> None:
    config = runs.config(root, "full")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    train(config.model_copy(update={"steps": 12, "checkpoint_every": 100}))
    shutil.rmtree(Path(config.output) / "checkpoints")
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limit[1]))
    try:
        with pytest.raises(OSError, match="step-00000004"):
            train(config)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert complete(Path(config.output) / "checkpoints") == []
    train(config)
    assert runs.rows(config) == runs.rows(finished)


def test_gradient_checkpointing_changes_no_loss(finished: TrainConfig, root: Path) -> None:
    config = runs.config(root, gradient_checkpointing=True)
    train(config)
    assert runs.losses(config) == pytest.approx(runs.losses(finished), rel=1e-4)


def test_bfloat16_stays_close(finished: TrainConfig, root: Path) -> None:
    config = runs.config(root, precision="bf16", accumulate=1, deepspeed=str(shipped("cpu")))
    train(config)
    assert runs.losses(config) == pytest.approx(runs.losses(finished), rel=0.02)


def shipped(name: str) -> Path:
    return Path(__file__).resolve().parents[2] / "infra" / "deepspeed" / f"{name}.json"


def test_clip_context_samples_and_accumulation(root: Path) -> None:
    """The other settings together: features of the base beside the LLM's, min-SNR, accumulation, epochs, samples."""
    fingerprints = json.loads((root / "fingerprints.json").read_text())
    config = runs.config(
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
    assert len(runs.rows(config)) == 12  # 4 epochs of 6 batches, two a step
    first, last = (load_file(path)["latents"] for path in sorted((Path(config.output) / "samples").iterdir()))
    assert first.shape == (2, 4, 8, 8)
    assert not torch.equal(first, last)
    adapter = LLMAdapter.load(Path(config.output) / "adapter", load_unet(config.base))
    assert adapter.config.base_tokens == tiny.TOKENS


def test_the_control_run_reads_the_bases_own_features(root: Path) -> None:
    fingerprints = json.loads((root / "fingerprints.json").read_text())
    config = runs.config(root, fingerprint=fingerprints["base"], steps=2)
    train(config)
    adapter = LLMAdapter.load(Path(config.output) / "adapter", load_unet(config.base))
    assert (adapter.config.encoder, adapter.config.encoding_dim) == ("base", tiny.WIDTH)


def test_bands_are_trained(root: Path) -> None:
    root.joinpath("store").unlink()
    root.joinpath("fingerprints.json").unlink()
    llm, _ = runs.make_store(root / "store", bands=2)
    (root / "fingerprints.json").write_text(json.dumps({"llm": llm}))
    config = runs.config(root, steps=3, caption_dropout=0.5)
    train(config)
    adapter = LLMAdapter.load(Path(config.output) / "adapter", load_unet(config.base))
    assert adapter.config.bands == 2
    assert not torch.equal(adapter.phi.g, torch.ones(2))


def test_a_loss_that_is_not_finite_stops_the_run(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root.joinpath("store").unlink()
    root.joinpath("fingerprints.json").unlink()
    llm, _ = runs.make_store(root / "store", broken=True)
    (root / "fingerprints.json").write_text(json.dumps({"llm": llm}))
    path = runs.config(root, checkpoint_every=1).write(root / "run.json")
    assert main(["--config", str(path)]) == 1
    assert "the loss is not finite" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fingerprint": "f00"}, "expected encodings of f00, found"),
        ({"store_version": 99}, "version"),
        ({"store": "nowhere"}, "nowhere"),
        ({"sample_every": 2, "validation_prompts": ("unheard of",)}, "no encoding of the caption 'unheard of'"),
    ],
)
def test_mistakes_are_named(
    root: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, object], message: str
) -> None:
    path = runs.config(root, **changes).write(root / "run.json")
    assert main(["--config", str(path)]) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert message in line


def test_another_configuration_needs_another_folder(root: Path) -> None:
    train(runs.config(root, steps=2))
    with pytest.raises(ValueError, match=r"began with learning_rate 0.01, found 0.02"):
        train(runs.config(root, steps=2, learning_rate=0.02))
    train(runs.config(root, steps=2, log_every=2))


def wait_for(path: Path, worker: subprocess.Popen[str], lines: int = 0, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not path.exists() or path.read_text().count("\n") < lines:
        assert worker.poll() is None, worker.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)
