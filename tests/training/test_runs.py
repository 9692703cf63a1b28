"""Whole training runs: what they leave, what their settings do, and mistakes that are told before a step."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from llmdiff.adapter import LLMAdapter
from llmdiff.diffusion.base import load_unet
from llmdiff.training import TrainConfig
from llmdiff.training.checkpoints.state import complete, read_state
from tests.adapter import tiny
from tests.training import training_run
from tests.training.training_run import refusal, train

pytestmark = pytest.mark.process


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


@pytest.mark.parametrize("name", ["zero0", "zero1", "zero2", "zero2-offload", "zero3", "zero3-offload"])
def test_the_shipped_deepspeed_settings_agree(finished: TrainConfig, root: Path, name: str) -> None:
    stage = int(name[4])
    settings = {"validation_prompts": ("caption 1",), "validation_steps": 1, "sample_every": 12}
    config = training_run.config(root, name, zero_stage=stage, deepspeed=str(shipped(name)), **settings)
    train(config)
    assert training_run.losses(config) == pytest.approx(training_run.losses(finished), rel=1e-4)


def test_samples_on_the_way_change_no_loss(finished: TrainConfig, root: Path) -> None:
    drawing = {"validation_prompts": ("caption 1", "caption 2"), "validation_steps": 1, "sample_every": 3}
    config = training_run.config(root, **drawing)
    train(config)
    assert training_run.losses(config) == training_run.losses(finished)


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
    from llmdiff.training.optimiser import adamw

    curves = []
    for stage in (0, 2, 3):
        config = training_run.config(root, f"half-{stage}", precision="fp16", zero_stage=stage)
        train(config)
        curves.append(training_run.losses(config))
        assert training_run.losses(config) == pytest.approx(training_run.losses(finished), rel=0.02)
        assert read_state(complete(Path(config.output) / "checkpoints")[-1]).loss_scale == 2.0**16
    assert curves[1] == pytest.approx(curves[0], rel=1e-3)
    monkeypatch.setattr(adamw, "LARGEST_SCALE", 2.0**31)
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


def test_another_configuration_needs_another_folder(root: Path) -> None:
    train(training_run.config(root, steps=2))
    with pytest.raises(ValueError, match=r"began with learning_rate 0.01, found 0.02"):
        train(training_run.config(root, steps=2, learning_rate=0.02))
    train(training_run.config(root, steps=2, log_every=2))
