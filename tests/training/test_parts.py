"""The pieces of the training loop, each alone: loss, noise, randomness, optimiser, average."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F

from llmdiff.adapter import LLMAdapter, padding
from llmdiff.training import TrainConfig
from llmdiff.training.distributed import parameter_groups
from llmdiff.training.layout import LayoutDecoder, layout_loss
from llmdiff.training.objective import Objective, UnconditionalEmbedding, noised, part_of, sample_generators, split
from llmdiff.training.optimiser.adamw import LossScale
from llmdiff.training.optimiser.ema import EMA
from llmdiff.training.optimiser.zero_stage_0 import ZeroStage0AdamW
from storage.reading.dataset import Batch
from tests.adapter import tiny
from tests.training.training_run import PATHS


def make_batch(x: dict[str, torch.Tensor]) -> Batch:
    return Batch(
        encodings=x["encodings"].bfloat16(),
        mask=x["mask"],
        base_encodings=None,
        base_mask=None,
        latents=x["latents"].half(),
        caption_hashes=["a", "b"],
        rows=[("made-up", 0), ("made-up", 1)],
        position=0,
    )


@pytest.fixture
def adapter() -> LLMAdapter:
    return tiny.adapter(tiny.unet())


def objective(adapter: LLMAdapter, null: torch.Tensor | None = None, **changes: object) -> Objective:
    from diffusers import DDPMScheduler

    unet = tiny.unet()
    adapter.install(unet)
    schedule = DDPMScheduler.from_config(tiny.schedule().config)
    null = torch.randn(1, tiny.HIDDEN) if null is None else null
    return Objective(
        adapter, unet, schedule, UnconditionalEmbedding(null, None), TrainConfig(**PATHS, steps=1, **changes)
    )


CPU = torch.device("cpu")


def test_the_loss_is_the_mean_squared_error_of_the_noise(adapter: LLMAdapter) -> None:
    model, x = objective(adapter, caption_dropout=0.0), tiny.inputs()
    batch = make_batch(x)
    loss, weighted, losses, timesteps = model(batch, sample_generators(0, 5, batch, CPU), 0.5)
    generators = sample_generators(0, 5, batch, CPU)
    latents = x["latents"].half().float()
    noise = torch.stack([torch.randn(latents.shape[1:], generator=generator) for generator in generators])
    drawn = torch.tensor([int(1000 * torch.rand(2, generator=generator)[0]) for generator in generators])
    noisy = model.schedule.add_noise(latents, noise, drawn)
    context = adapter.context(x["encodings"].bfloat16(), x["mask"])
    expected = (model.frozen[0](noisy, drawn, context).sample - noise).square()
    assert torch.equal(timesteps, drawn)
    torch.testing.assert_close(loss, expected.mean())
    torch.testing.assert_close(losses, expected.mean(dim=(1, 2, 3)))
    assert torch.equal(weighted, losses)


@pytest.mark.parametrize("group", [1, 16])
def test_layouts_have_one_error_in_whatever_groups_their_captions_go(
    adapter: LLMAdapter, group: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(padding, "GROUP", group)
    model, x, decoder = objective(adapter), tiny.inputs(), LayoutDecoder(tiny.WIDTH, 4)
    batch = make_batch(x)
    assert batch.mask.sum(1).tolist() == [5, 1]  # the second comes first
    found = decoder(adapter.context(batch.encodings, batch.mask), batch.latents.shape[-2:])
    torch.testing.assert_close(layout_loss(model, decoder, batch, 0, CPU), F.mse_loss(found, batch.latents.float()))


def test_dropout_reads_the_empty_caption(adapter: LLMAdapter) -> None:
    null = torch.randn(1, tiny.HIDDEN)
    model, x = objective(adapter, null, caption_dropout=1.0), tiny.inputs()
    other = {**x, "encodings": torch.randn_like(x["encodings"])}
    batches = [make_batch(y) for y in (x, other)]
    results = [model(batch, sample_generators(0, 0, batch, CPU), 1.0)[0] for batch in batches]
    assert torch.equal(*results)


def test_timesteps_cover_the_schedule_and_lean_as_told(adapter: LLMAdapter) -> None:
    means = {}
    for exponent in (1.0, 0.5):
        adapter.uninstall()
        model = objective(adapter, timestep_exponent=exponent)
        drawn = model.timesteps(torch.rand(20_000, generator=torch.Generator().manual_seed(0)))
        assert drawn.min() >= 0
        assert drawn.max() == 999
        means[exponent] = drawn.float().mean().item()
    assert means[1.0] == pytest.approx(499.5, rel=0.02)
    assert means[0.5] == pytest.approx(666, rel=0.02)


def test_randomness_follows_from_seed_epoch_and_sample() -> None:
    batch = make_batch(tiny.inputs())

    def draw(seed: int, epoch: int, part: Batch = batch) -> list[float]:
        return [torch.rand(1, generator=generator).item() for generator in sample_generators(seed, epoch, part, CPU)]

    assert draw(0, 0) == draw(0, 0)
    assert [*draw(0, 0, part_of(batch, 0, 1)), *draw(0, 0, part_of(batch, 1, 2))] == draw(0, 0)
    places = [(0, 0), (1, 0), (0, 1), (1, 1), (0, 11)]
    assert len({number for place in places for number in draw(*place)}) == 2 * len(places)


def test_noise_left_to_training_is_drawn_with_each_bands_deviation_and_never_on_padding() -> None:
    batch = dataclasses.replace(make_batch(tiny.inputs()), rows=[("a", 0), ("a", 1)])
    encodings, mask = torch.ones(2, 3, 50, 400, dtype=torch.bfloat16), torch.arange(50) < torch.tensor([[50], [20]])

    def draw(epoch: int, encodings: torch.Tensor = encodings, mask: torch.Tensor = mask) -> torch.Tensor:
        return noised(encodings, mask, (0.5, 0.0, 2.0), sample_generators(0, epoch, batch, CPU))

    drawn = draw(0)
    assert (drawn.shape, drawn.dtype) == (encodings.shape, torch.float32)
    assert [band.std().item() for band in drawn[0]] == pytest.approx([0.5, 0.0, 2.0], rel=0.02)
    assert torch.all(drawn[1, :, 20:] == 1)
    assert torch.equal(drawn, draw(0))
    assert not torch.equal(drawn, draw(1))
    longer = draw(0, F.pad(encodings, (0, 0, 0, 9)), F.pad(mask, (0, 9)))
    assert torch.equal(longer[:, :, :50], drawn)


def test_fresh_noise_changes_the_loss_from_epoch_to_epoch_and_not_within_one(adapter: LLMAdapter) -> None:
    batch = make_batch(tiny.inputs())
    model = objective(adapter, caption_dropout=0.0)
    losses = {}
    for std in ((), (3.0,)):
        model.noise_std = std
        losses[std] = [model(batch, sample_generators(0, 0, batch, CPU), 1.0)[0].item() for _ in range(2)]
        assert losses[std][0] == losses[std][1]
    assert losses[()] != losses[(3.0,)]


def test_a_batch_is_split_into_parts_that_hold_each_sample_once() -> None:
    batch = make_batch(tiny.inputs())
    both = [part for part, counts in split(batch, 2) if counts]
    assert [part.rows for part in both] == [[row] for row in batch.rows]
    torch.testing.assert_close(torch.cat([part.latents for part in both]), batch.latents)
    assert [(len(part.latents), counts) for part, counts in split(batch, 3)].count((1, False)) == 1
    assert sum(len(part.latents) for part, counts in split(batch, 3) if counts) == 2


def test_weight_decay_is_for_matrices_alone(adapter: LLMAdapter) -> None:
    decayed, plain = parameter_groups(objective(adapter), 0.3)
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.3, 0.0)
    names = {id(parameter): name for name, parameter in adapter.named_parameters()}
    assert {names[id(p)].rsplit(".", 1)[1] for p in decayed["params"]} == {"weight"}
    assert {names[id(p)].rsplit(".", 1)[1] for p in plain["params"]} == {"a", "b", "bias", "weight"}
    assert [names[id(p)] for p in plain["params"] if names[id(p)].endswith("weight")] == ["phi.norm.weight"]
    assert len(decayed["params"]) + len(plain["params"]) == len(names)


def test_adamw_of_zero_stage_0_clips_and_leaves_out_what_is_not_finite() -> None:
    ours, theirs = torch.nn.Parameter(torch.ones(4)), torch.nn.Parameter(torch.ones(4))
    optimiser, reference = ZeroStage0AdamW([ours], clip=1.0, lr=0.1), torch.optim.AdamW([theirs], lr=0.1)
    for gradient in ([3.0, 0.0, 4.0, 0.0], [0.1, 0.2, 0.3, 0.4]):
        ours.grad, theirs.grad = torch.tensor(gradient) * 8, torch.tensor(gradient)
        optimiser.loss_scale = 8.0
        optimiser.step()
        torch.nn.utils.clip_grad_norm_([theirs], 1.0)
        reference.step()
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=0)
    assert optimiser._global_grad_norm == pytest.approx(0.3**0.5)
    before = ours.detach().clone()
    ours.grad = torch.tensor([1.0, math.nan, 1.0, 1.0])
    optimiser.step()
    assert optimiser.overflow
    assert torch.equal(ours, before)
    assert optimiser.state[ours]["step"] == 2


def test_the_loss_scale_falls_and_rises() -> None:
    class Engine:
        optimizer = ZeroStage0AdamW([torch.nn.Parameter(torch.ones(1))], clip=0.0)

    scale = LossScale(Engine, "fp16", LossScale.start("fp16"), 0)
    assert [scale.update(False) for _ in range(17)] == [True] * 16 + [False]
    assert Engine.optimizer.loss_scale == 1.0
    assert all(scale.update(True) for _ in range(1000))
    assert Engine.optimizer.loss_scale == 2.0
    fixed = LossScale(Engine, "fp32", LossScale.start("fp32"), 0)
    assert [fixed.update(False), fixed.update(True)] == [False, True]
    assert fixed.value == 1.0


def test_average_follows_and_forgets_the_start() -> None:
    weights = {"w": torch.zeros(3)}
    ema = EMA(weights, decay=0.9)
    weights["w"].fill_(1.0)
    for step in range(1, 201):
        ema.update(weights, step)
    torch.testing.assert_close(ema.tensors["w"], torch.ones(3))
    off = EMA(weights, decay=0.0)
    weights["w"].fill_(2.0)
    off.update(weights, 1)
    assert torch.equal(off.tensors["w"], weights["w"])
