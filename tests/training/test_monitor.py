"""Each failure signature on and off, with made-up inputs; and what the signatures are told from."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler

from llmdiff.training import TrainConfig, monitor
from llmdiff.training.monitor import TrainingMonitor
from llmdiff.training.objective import Objective, UnconditionalEmbedding, sample_generators
from storage import EncodingStore
from storage.reading.dataset import Batch, DatasetConfig, EncodingDataset
from tests.adapter import tiny
from tests.training import training_run


def gains(mean: float, count: int = monitor.WINDOW) -> Sequence[float]:
    """Noise of 0.1 about a mean."""
    noise = torch.randn(count, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return (mean + 0.1 * (noise - noise.mean())).tolist()


def batch(root: Path) -> Batch:
    store = EncodingStore.open(root / "store")
    (fingerprint,) = [key for key, about in store.fingerprints().items() if about["kind"] == "llm"]
    return next(iter(EncodingDataset(root / "store", DatasetConfig(fingerprint=fingerprint, batch_size=4)).epoch(0)))


@pytest.mark.parametrize(
    ("mean", "count", "step", "seen"),
    [
        (0.0, monitor.WINDOW, 500, True),
        (-0.05, monitor.WINDOW, 500, True),
        (0.05, monitor.WINDOW, 500, False),
        (0.0, monitor.WINDOW - 1, 500, False),  # too few to tell
        (0.0, monitor.WINDOW, 499, False),  # too early
    ],
)
def test_text_ignored(mean: float, count: int, step: int, seen: bool) -> None:
    found = monitor.text_ignored(gains(mean, count), step)
    assert (found is not None) == seen
    if found is not None:
        assert "learning_rate" in found.text


def test_text_that_changes_nothing_at_all_is_ignored() -> None:
    assert monitor.text_ignored([0.0] * monitor.WINDOW, 500) is not None


def test_original_path_drowned() -> None:
    healthy = {"down_blocks.0": 0.9, "mid_block.0": 0.5, "up_blocks.1": 0.11}
    assert monitor.original_drowned(healthy) is None
    assert monitor.original_drowned({}) is None  # an ablation with one path
    layers = {f"up_blocks.{i}": 0.5 for i in range(7)}
    assert monitor.original_drowned({**layers, "up_blocks.0": 0.05}) is None
    assert monitor.original_drowned({**layers, "up_blocks.0": 0.05, "up_blocks.1": 0.09}) is not None
    found = monitor.original_drowned({**healthy, "down_blocks.0": 0.01, "mid_block.0": 0.04})
    assert found is not None
    assert "2 of 3 layers: mid_block.0 (4.0%), down_blocks.0 (1.0%)" in found.text
    assert "adapter.new_weight" in found.text


def test_nan_encodings_are_named_by_row(parts: Path) -> None:
    good = batch(parts)
    assert monitor.nan_inputs(good) is None
    encodings = good.encodings.clone()
    encodings[2, 0, 5] = torch.inf
    found = monitor.nan_inputs(replace(good, encodings=encodings))
    assert found is not None
    assert (
        f"1 of 4 samples have an encoding or a latent that is not finite, made-up row {good.rows[2][1]}" in found.text
    )
    assert "dtype=float32" in found.text
    assert found.own  # told by the process that has the sample


def test_truncated_captions() -> None:
    assert monitor.captions_truncated(0.01, 120) is None
    found = monitor.captions_truncated(0.034, 120)
    assert found is not None
    assert "3.4% of the captions have the 120 tokens" in found.text
    assert "max_tokens=240" in found.text


def test_captions_at_the_limit_are_counted_in_the_index(tmp_path: Path) -> None:
    """The store's captions have 1 to 7 tokens in turn, 24 in all: three have seven."""
    training_run.make_store(tmp_path / "store")
    store = EncodingStore.open(tmp_path / "store")
    llm, base = (
        next(k for k, about in store.fingerprints().items() if about["kind"] == kind) for kind in ("llm", "base")
    )
    assert monitor.share_at_limit(store, llm) == (0.0, 0)  # its description states no limit
    assert monitor.share_at_limit(store, base) == (0.0, 0)  # padded: every caption has the full length
    (tmp_path / "store" / "fingerprints" / f"{llm}.json").write_text('{"kind": "llm", "max_tokens": 7}')
    assert monitor.share_at_limit(store, llm) == (3 / 24, 7)
    (tmp_path / "store" / "fingerprints" / f"{llm}.json").write_text(
        '{"kind": "llm", "max_tokens": 7, "template_keep": "after"}'
    )
    assert monitor.share_at_limit(store, llm) == (0.0, 0)  # what is left of a caption says nothing of its length


def test_told_once_and_again_when_twice_as_bad(caplog: pytest.LogCaptureFixture) -> None:
    told = TrainingMonitor()
    with caplog.at_level(logging.WARNING):
        for share in (0.0, 0.02, 0.03, 0.04, 0.05, 0.09):
            told.report(monitor.captions_truncated(share, 120))
            TrainingMonitor(speaks=False).report(monitor.captions_truncated(share, 120))
    starts = [record.message[: len("training warning: truncated captions: 2.0%")] for record in caplog.records]
    assert starts == [f"training warning: truncated captions: {share}.0%" for share in (2, 4, 9)]


def test_a_look_finds_what_is_there(parts: Path) -> None:
    """Losses that the captions don't lower, and one drowned layer: both told at the first look that can tell."""
    some, told = batch(parts), TrainingMonitor()
    losses = torch.rand(4, generator=torch.Generator().manual_seed(0)) + 0.5
    messages = [
        message
        for step in range(50, 50 * monitor.WINDOW // 4 + 50, 50)
        for message in told.look(step, some, losses, losses, {"mid_block.0": 0.05, "up_blocks.0": 0.8})
    ]
    assert [message.split(":")[0] for message in messages] == ["original path drowned", "text ignored"]


def test_gains_are_shares_of_the_loss() -> None:
    assert monitor.gains(torch.tensor([1.0, 2.0, 0.0]), torch.tensor([1.0, 3.0, 0.0])) == pytest.approx([0, 0.4, 0])


def test_swapped_gives_each_sample_its_neighbours_caption(parts: Path) -> None:
    some = batch(parts)
    other = monitor.swapped(some)
    assert torch.equal(other.encodings[1], some.encodings[0])
    assert torch.equal(other.mask[0], some.mask[3])
    assert torch.equal(other.latents, some.latents)


def test_losses_are_compared_under_the_same_noise(parts: Path) -> None:
    some, unet = batch(parts), tiny.unet()
    adapter = tiny.adapter(unet, new_weight=0.5)
    adapter.install(unet)
    schedule = DDPMScheduler.from_config(tiny.schedule().config)
    config = TrainConfig(store="s", fingerprint="f", base="b", output="o", steps=1, caption_dropout=0.0)
    objective = Objective(adapter, unet, schedule, UnconditionalEmbedding(torch.zeros(1, tiny.HIDDEN), None), config)
    own, others, shares = monitor.compare(objective, some, 0)
    assert own.shape == others.shape == (4,)
    assert not torch.equal(own, others)
    assert torch.equal(own, objective(some, sample_generators(0, 0, some, torch.device("cpu")), 1.0)[2])
    assert len(shares) == 4
    one_caption = replace(some, encodings=some.encodings[:1].repeat(4, 1, 1), mask=some.mask[:1].repeat(4, 1))
    assert torch.equal(*monitor.compare(objective, one_caption, 0)[:2])


def test_shares_of_the_paths_are_of_the_outputs_norm() -> None:
    unet, x = tiny.unet(), tiny.inputs()
    adapter = tiny.adapter(unet, original_weight=1.0, new_weight=0.0)
    adapter.install(unet)
    context = adapter.context(x["encodings"], x["mask"])
    with torch.no_grad():
        with monitor.path_shares(adapter) as untouched:
            tiny.predict(unet, x, context)
        for layer in adapter.layers.values():
            layer.a.copy_(torch.tensor([0.25, 0.75]))  # the new attention begins as a copy of the original
        with monitor.path_shares(adapter) as mixed:
            tiny.predict(unet, x, context)
        tiny.predict(unet, x, context)
    assert untouched == dict.fromkeys([row["layer"] for row in adapter.weights_by_layer()], 1.0)
    assert list(mixed.values()) == pytest.approx([0.25] * 4, rel=1e-4)
    assert not any(layer._forward_hooks for layer in adapter.layers.values())


def test_an_ablation_has_one_path_and_no_shares() -> None:
    unet, x = tiny.unet(), tiny.inputs()
    adapter = tiny.adapter(unet, paths="new")
    adapter.install(unet)
    with torch.no_grad(), monitor.path_shares(adapter) as shares:
        tiny.predict(unet, x, adapter.context(x["encodings"], x["mask"]))
    assert shares == {}


@pytest.mark.process
@pytest.mark.parametrize("stage", [0, 2, 3])
def test_looking_changes_no_loss(
    root: Path, stage: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from llmdiff.training import loop

    monkeypatch.setattr(monitor, "LEAST_SHARE", 1.1)  # every layer counts as drowned
    blind, looking = (training_run.config(root, name, zero_stage=stage) for name in ("blind", "looking"))
    loop.train(training_run.resolved(blind))
    assert "drowned" not in caplog.text
    monkeypatch.setattr(loop, "EVERY", 4)
    loop.train(training_run.resolved(looking))
    assert training_run.rows(looking) == training_run.rows(blind)
    assert caplog.text.count("original path drowned: it makes up less than 110% of the output in 4 of 4 layers") == 1
