"""The pieces of the training loop, each alone."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
import torch.nn.functional as F
from diffusers.optimization import get_scheduler

from llmdiff.adapter import LLMAdapter
from llmdiff.training import TrainConfig
from llmdiff.training.config import LRScheduler
from llmdiff.training.distributed import parameter_groups
from llmdiff.training.ema import EMA
from llmdiff.training.learning_rate import learning_rate
from llmdiff.training.objective import Objective, UnconditionalEmbedding, noised, part_of, sample_generators, split
from llmdiff.training.optimiser import LossScale
from llmdiff.training.plain import PlainAdamW
from storage.reading.dataset import Batch
from tests.adapter import tiny

PATHS = {"store": "s", "fingerprint": "f", "base": "b", "output": "o"}


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


def test_plain_adamw_clips_and_leaves_out_what_is_not_finite() -> None:
    ours, theirs = torch.nn.Parameter(torch.ones(4)), torch.nn.Parameter(torch.ones(4))
    optimiser, reference = PlainAdamW([ours], clip=1.0, lr=0.1), torch.optim.AdamW([theirs], lr=0.1)
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
        optimizer = PlainAdamW([torch.nn.Parameter(torch.ones(1))], clip=0.0)

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


def rates(steps: int = 100, **settings: object) -> list[float]:
    config = TrainConfig(**PATHS, steps=steps, **settings)
    return [learning_rate(config, step, steps) for step in range(1, steps + 1)]


def test_learning_rate_warms_up_and_decays() -> None:
    found = rates(learning_rate=1.0, warmup=10)
    assert found[:10] == pytest.approx([0.1 * step for step in range(1, 11)])
    assert found[9:] == sorted(found[9:], reverse=True)
    assert 0 < found[-1] < 1e-3
    assert rates(learning_rate=1.0, warmup=0)[0] == pytest.approx(1.0, rel=1e-3)
    assert len(rates(steps=5, warmup=10)) == 5


def test_the_default_learning_rate_is_that_of_earlier_versions_bit_for_bit() -> None:
    rate, warmup, steps = 2.5e-3, 30, 997
    expected = [
        rate * step / warmup
        if step <= warmup
        else rate * 0.5 * (1 + math.cos(math.pi * ((step - warmup) / max(1, steps + 1 - warmup))))
        for step in range(1, steps + 1)
    ]
    assert rates(steps, learning_rate=rate, warmup=warmup) == expected


@pytest.mark.parametrize("name", get_args(LRScheduler))
def test_learning_rates_are_those_of_diffusers_by_name(name: Any) -> None:
    """Its schedules begin at a rate of 0, which would waste a step: ours is one ahead."""
    steps, options = 60, {"num_cycles": 3, "power": 2.0}
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    schedule = get_scheduler(name, optimiser, num_warmup_steps=7, num_training_steps=steps + 1, **options)
    expected = []
    for _ in range(steps):
        optimiser.step()
        schedule.step()
        expected.append(optimiser.param_groups[0]["lr"])
    found = rates(steps, learning_rate=0.5, warmup=7, lr_scheduler=name, lr_num_cycles=3, lr_power=2.0)
    assert found == pytest.approx(expected, rel=1e-12)
    assert min(found) > 0


def test_configuration_round_trip(tmp_path: Path) -> None:
    config = TrainConfig(**PATHS, epochs=2, validation_prompts=("a",), adapter={"base_context": "llm", "new_weight": 0})
    assert TrainConfig.read(config.write(tmp_path / "deep" / "run.json")) == config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"colour": "red"}, "run.json: colour: .*'red'"),
        ({"adapter": {"colour": "red"}}, "run.json: adapter.colour: "),
        ({"batch_size": 0}, "run.json: batch_size: .*found 0"),
        ({"epochs": 1}, "either steps or epochs"),
        ({"adapter": {"base_context": "clip"}}, "base_fingerprint"),
        ({"sample_every": 5}, "validation_prompts"),
        ({"lr_scheduler": "cosinus"}, "lr_scheduler: .*'cosinus'"),
        ({"lr_scheduler": "polynomial", "learning_rate": 1e-7}, "learning_rate: expected more than 1e-07"),
        ({"torch_compile": True, "zero_stage": 3}, "torch_compile goes with zero_stage 0, 1 or 2"),
        ({"flip_words": ["left", ""]}, r"flip_words: expected words, found \['left', ''\]"),
    ],
)
def test_configuration_mistakes_name_file_and_field(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    path = tmp_path / "run.json"
    path.write_text(json.dumps({**PATHS, "steps": 1, **changes}))
    with pytest.raises(ValueError, match=message):
        TrainConfig.read(path)


def test_a_configuration_that_is_no_json_is_named(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text("steps: 3")
    with pytest.raises(ValueError, match=r"run.json: not a JSON object"):
        TrainConfig.read(path)


SHIPPED = sorted((Path(__file__).resolve().parents[2] / "infra" / "deepspeed").glob("*.json"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_deepspeed_files_go_with_a_configuration(path: Path) -> None:
    stage = json.loads(path.read_text())["zero_optimization"]["stage"]
    settings = TrainConfig(**PATHS, steps=1, deepspeed=str(path), zero_stage=stage, batch_size=3).for_deepspeed()
    assert settings["zero_optimization"]["stage"] == stage
    assert settings["train_micro_batch_size_per_gpu"] == 3


@pytest.mark.parametrize(("processes", "stage"), [(1, 2), (2, 2), (1, 0), (1, 3)])
def test_gradients_are_scattered_unless_a_process_is_alone(processes: int, stage: int) -> None:
    config = TrainConfig(**PATHS, steps=1, zero_stage=stage, processes=processes)
    scattered = config.for_deepspeed()["zero_optimization"].get("reduce_scatter", True)
    assert scattered is ((processes, stage) != (1, 2))


def test_a_deepspeed_file_may_not_contradict_the_configuration(tmp_path: Path) -> None:
    path = tmp_path / "ds.json"
    path.write_text(json.dumps({"gradient_clipping": 3.0}))
    with pytest.raises(ValueError, match=r"ds.json: gradient_clipping follows"):
        TrainConfig(**PATHS, steps=1, deepspeed=str(path)).for_deepspeed()
    path.write_text(json.dumps({"zero_optimization": {"stage": 3}}))
    with pytest.raises(ValueError, match=r"ZeRO stage 3, but zero_stage is 2"):
        TrainConfig(**PATHS, steps=1, deepspeed=str(path)).for_deepspeed()
