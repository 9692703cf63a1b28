"""Training with gates, a refiner, standardised inputs, layout pre-training: statistics, resuming, ZeRO, warm starts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from llmdiff.adapter import LLMAdapter
from llmdiff.adapter.statistics import channel_statistics
from llmdiff.diffusion.base import load_unet
from llmdiff.training import TrainConfig, setup
from llmdiff.training.config import LATER
from llmdiff.training.data.encoding_statistics import sampled_captions, store_statistics
from llmdiff.training.resolve import resolve
from storage import EncodingStore, caption_hash
from tests.adapter import tiny
from tests.training import training_run
from tests.training.training_run import train

pytestmark = pytest.mark.process

BANDS = 2
ALL = {"band_gates": True, "refiner": 1, "standardise": True}
STATISTICS = ("phi.standardisation.mean", "phi.standardisation.std")


def all_three(root: Path, output: str, **changes: Any) -> TrainConfig:
    layout = {"layout_steps": 4, "layout_batch_size": 4}
    return training_run.config(root, output, **{"adapter": ALL, "steps": 4, "checkpoint_every": 2, **layout, **changes})


@pytest.fixture(scope="module")
def whole(parts: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """An uninterrupted run with all three, on a store of two bands."""
    root = tmp_path_factory.mktemp("options")
    (root / "base").symlink_to(parts / "base")
    llm, base = training_run.make_store(root / "store", bands=BANDS)
    (root / "fingerprints.json").write_text(json.dumps({"llm": llm, "base": base}))
    config = all_three(root, "whole", sample_every=2, validation_prompts=("caption 1",), validation_steps=1)
    train(config)
    return config


def weights(config: TrainConfig, name: str = "adapter-raw") -> dict[str, torch.Tensor]:
    return load_file(Path(config.output) / name / "adapter.safetensors")


def half_done(config: TrainConfig, name: str, **changes: Any) -> TrainConfig:
    """A copy of a run as it was after half of its steps."""
    output = Path(config.output).with_name(name)
    shutil.copytree(config.output, output)
    for late in ("adapter", "adapter-raw", "checkpoints/step-00000004"):
        shutil.rmtree(output / late)
    return config.model_copy(update={"output": str(output), **changes})


def test_statistics_are_those_of_all_tokens_of_the_captions(whole: TrainConfig) -> None:
    store = EncodingStore.open(whole.store)
    captions = [caption_hash(f"caption {row}") for row in range(training_run.SAMPLES)]
    encodings = [store.encoding(whole.fingerprint, key).astype(np.uint32) << 16 for key in captions]
    tokens = np.concatenate([bits.view(np.float32) for bits in encodings], axis=1).astype(np.float64)
    mean, std = store_statistics(store, whole.fingerprint)
    np.testing.assert_allclose(mean, tokens.mean(1), rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(std, tokens.std(1), rtol=1e-6)
    assert mean.dtype == std.dtype == torch.float32
    assert sampled_captions(store, whole.fingerprint, 5) == sorted(captions)[:5]
    fewer, _ = store_statistics(store, whole.fingerprint, captions=5)
    assert not torch.allclose(fewer, mean)


def test_a_channel_that_hardly_varies_is_divided_by_no_less_than_a_share_of_the_median() -> None:
    torch.manual_seed(0)
    encoding = torch.randn(2, 50, 7) * torch.tensor([1.0, 2.0, 3.0, 1e-2, 1e-9, 4.0, 5e3])
    encoding[1] *= 10
    plain = encoding.double().std(1, correction=0)
    expected = plain.clone()
    for band in range(2):
        least = plain[band].sort().values[3] / 256
        assert plain[band, 4] < least < plain[band, 3]
        expected[band, 4] = least
    torch.testing.assert_close(channel_statistics([encoding])[1].double(), expected, rtol=1e-6, atol=0)


def test_a_constant_channel_is_divided_by_one_and_what_is_not_finite_is_left_out() -> None:
    torch.manual_seed(0)
    encodings = [torch.randn(length, 3) for length in (4, 1, 7)]
    for encoding in encodings:
        encoding[:, 1], encoding[:, 2] = 1234.567, encoding[:, 2] + 3e4
    tokens = torch.cat(encodings).double()
    mean, std = channel_statistics([torch.full((2, 3), torch.nan), *encodings])
    torch.testing.assert_close(mean, tokens.mean(0, keepdim=True).float())
    torch.testing.assert_close(std[:, [0, 2]], tokens.std(0, keepdim=True, correction=0)[:, [0, 2]].float())
    assert std[0, 1] == 1.0
    assert mean[0, 1] == encodings[0][0, 1]
    with pytest.raises(ValueError, match="expected encodings with finite numbers, found none"):
        channel_statistics([torch.full((2, 3), torch.inf)])


def test_a_run_trains_gates_and_refiner_and_keeps_the_statistics(whole: TrainConfig) -> None:
    mean, std = store_statistics(EncodingStore.open(whole.store), whole.fingerprint)
    for name in ("adapter", "adapter-raw", "checkpoints/step-00000004", "checkpoints/step-00000004/ema"):
        found = weights(whole, name)
        assert torch.equal(found[STATISTICS[0]], mean)
        assert torch.equal(found[STATISTICS[1]], std)
    trained = weights(whole)
    assert all(tensor.any() for key, tensor in trained.items() if key.endswith("gate.logits"))
    assert trained["refiner.blocks.0.mlp_out.weight"].any()
    moments = load_file(Path(whole.output) / "checkpoints" / "step-00000004" / "optimizer.safetensors")
    assert not any("standardisation" in name for name in moments)
    shown = training_run.rows(whole)[-1]["weights"]
    assert all(sum(layer["bands"]) == pytest.approx(1) for layer in shown)
    adapter = LLMAdapter.load(Path(whole.output) / "adapter", load_unet(whole.base))
    assert ALL.items() <= adapter.config.model_dump().items()


def test_resumed_it_ends_as_if_it_had_not_stopped_and_reads_no_statistics_nor_pretrains(
    whole: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    resumed = half_done(whole, "resumed")
    monkeypatch.delattr(setup, "set_statistics")
    monkeypatch.delattr(setup, "pretrain_layout")
    train(resumed)
    for name in ("adapter", "adapter-raw"):
        one, other = weights(whole, name), weights(resumed, name)
        assert all(torch.equal(one[key], other[key]) for key in one)
    assert training_run.rows(resumed) == training_run.rows(whole)


@pytest.mark.parametrize("stage", [0, 1])
def test_other_stages_of_zero_train_the_same(whole: TrainConfig, stage: int) -> None:
    other = half_done(whole, f"stage-{stage}", zero_stage=stage)
    train(other)
    assert training_run.losses(other) == pytest.approx(training_run.losses(whole), rel=1e-5)


def test_two_processes_with_zero_3_train_the_same_from_the_start(whole: TrainConfig, tmp_path: Path) -> None:
    """Each of them has a part of every parameter, however small."""
    deepspeed = tmp_path / "deepspeed.json"
    deepspeed.write_text(json.dumps({"zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0}}))
    changes = {"batch_size": 2, "zero_stage": 3, "deepspeed": str(deepspeed)}
    both = whole.model_copy(update={"output": f"{whole.output}-both", **changes})
    training_run.run_ranks(both, 2)
    assert training_run.losses(both) == pytest.approx(training_run.losses(whole), rel=1e-4)
    one, other = weights(whole), weights(both)
    assert one.keys() == other.keys()
    for key in one:
        torch.testing.assert_close(one[key].float(), other[key].float(), atol=5e-3, rtol=5e-3)
    assert all(torch.equal(one[key], other[key]) for key in STATISTICS)


def test_mixed_precision_and_recomputed_activations(whole: TrainConfig) -> None:
    settings = {"precision": "bf16", "gradient_checkpointing": True, "zero_stage": 3, "steps": 2}
    low = whole.model_copy(update={"output": f"{whole.output}-low", **settings})
    train(low)
    assert training_run.losses(low) == pytest.approx(training_run.losses(whole)[:2], rel=0.1)


def test_a_warm_run_takes_the_statistics_of_its_parent_and_does_not_pretrain(
    whole: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = shutil.copytree(Path(whole.output) / "adapter", tmp_path / "parent")
    adapter = LLMAdapter.load(parent, load_unet(whole.base))
    assert adapter.phi.standardisation is not None
    mean = torch.full((BANDS, tiny.HIDDEN), 0.5)
    adapter.phi.standardisation.set(mean, 2 * mean)
    adapter.save(parent)
    warm = whole.model_copy(update={"output": str(tmp_path / "warm"), "start_from": str(parent), "steps": 1})
    monkeypatch.delattr(setup, "pretrain_layout")
    train(warm)
    assert torch.equal(weights(warm)[STATISTICS[0]], mean)


@pytest.mark.parametrize("setting", ALL)
def test_a_parent_with_another_setting_is_refused(whole: TrainConfig, tmp_path: Path, setting: str) -> None:
    changed = {**ALL, setting: type(ALL[setting])(0)}
    parent = str(Path(whole.output) / "adapter")
    warm = all_three(Path(whole.output).parent, str(tmp_path / "warm"), adapter=changed, start_from=parent)
    with pytest.raises(
        ValueError, match=f"expected {setting} {changed[setting]}, as the run has, found {ALL[setting]}"
    ):
        train(warm)


def test_gates_on_a_store_without_bands_are_refused_before_anything_starts(root: Path) -> None:
    config = training_run.config(root, adapter={"band_gates": True})
    with pytest.raises(ValueError, match=f"expected several, found 1 in {config.fingerprint}: encode with more"):
        resolve(config)


def test_a_run_of_before_these_settings_goes_on(root: Path) -> None:
    """The configuration of such a run names none of them; nor does that of a run that leaves them off."""
    config = training_run.config(root, adapter={"standardise": False, "refiner": 0})
    path = resolve(config).write(config.path)
    assert not set(ALL) & set(json.loads(path.read_text())["adapter"])
    resolve(config.model_copy(update={"adapter": type(config.adapter)()}))
    other = config.model_copy(update={"adapter": type(config.adapter)(standardise=True)})
    with pytest.raises(ValueError, match="the run began with adapter"):
        resolve(other)
    assert not LATER & set(json.loads(path.read_text()))
    with pytest.raises(ValueError, match="the run began with layout_steps 0, found 5"):
        resolve(config.model_copy(update={"layout_steps": 5}))
