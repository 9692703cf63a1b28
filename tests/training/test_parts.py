"""The pieces of the training loop, each alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from llmdiff.adapter import LLMAdapter
from llmdiff.training import TrainConfig
from llmdiff.training.ema import Average
from llmdiff.training.loop import learning_rate
from llmdiff.training.objective import Null, Objective, step_generator
from storage.reader import Batch
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
    return Objective(adapter, unet, schedule, Null(null, None), TrainConfig(**PATHS, steps=1, **changes))


def test_the_loss_is_the_mean_squared_error_of_the_noise(adapter: LLMAdapter) -> None:
    model, x = objective(adapter, caption_dropout=0.0), tiny.inputs()
    loss, losses, timesteps = model(make_batch(x), step_generator(0, 5, 0, torch.device("cpu")))
    generator = step_generator(0, 5, 0, torch.device("cpu"))
    latents = x["latents"].half().float()
    noise = torch.randn(latents.shape, generator=generator)
    drawn = (1000 * torch.rand(2, generator=generator)).long()
    noisy = model.schedule.add_noise(latents, noise, drawn)
    context = adapter.context(x["encodings"].bfloat16(), x["mask"])
    expected = (model.frozen[0](noisy, drawn, context).sample - noise).square()
    assert torch.equal(timesteps, drawn)
    torch.testing.assert_close(loss, expected.mean())
    torch.testing.assert_close(losses, expected.mean(dim=(1, 2, 3)))


def test_dropout_reads_the_empty_caption(adapter: LLMAdapter) -> None:
    null = torch.randn(1, tiny.HIDDEN)
    model, x = objective(adapter, null, caption_dropout=1.0), tiny.inputs()
    other = {**x, "encodings": torch.randn_like(x["encodings"])}
    results = [model(make_batch(y), step_generator(0, 0, 0, torch.device("cpu")))[0] for y in (x, other)]
    assert torch.equal(*results)


def test_timesteps_cover_the_schedule_and_lean_as_told(adapter: LLMAdapter) -> None:
    means = {}
    for exponent in (1.0, 0.5):
        adapter.uninstall()
        model = objective(adapter, timestep_exponent=exponent)
        drawn = model.draw_timesteps(20_000, torch.Generator().manual_seed(0))
        assert drawn.min() >= 0
        assert drawn.max() == 999
        means[exponent] = drawn.float().mean().item()
    assert means[1.0] == pytest.approx(499.5, rel=0.02)
    assert means[0.5] == pytest.approx(666, rel=0.02)


def test_randomness_follows_from_seed_step_and_rank() -> None:
    device = torch.device("cpu")

    def draw(*place: int) -> float:
        return torch.rand(1, generator=step_generator(*place, device)).item()

    places = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 11, 0), (0, 1, 1)]
    assert [draw(*place) for place in places] == [draw(*place) for place in places]
    assert len({draw(*place) for place in places}) == len(places)


def test_average_follows_and_forgets_the_start() -> None:
    weights = {"w": torch.zeros(3)}
    average = Average(weights, decay=0.9)
    weights["w"].fill_(1.0)
    for step in range(1, 201):
        average.update(weights, step)
    torch.testing.assert_close(average.tensors["w"], torch.ones(3))
    off = Average(weights, decay=0.0)
    weights["w"].fill_(2.0)
    off.update(weights, 1)
    assert torch.equal(off.tensors["w"], weights["w"])


def test_learning_rate_warms_up_and_decays() -> None:
    config = TrainConfig(**PATHS, steps=100, learning_rate=1.0, warmup=10)
    rates = [learning_rate(config, step, 100) for step in range(1, 101)]
    assert rates[:10] == pytest.approx([0.1 * step for step in range(1, 11)])
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert 0 < rates[-1] < 1e-3
    assert learning_rate(config.model_copy(update={"warmup": 0}), 1, 100) == pytest.approx(1.0, rel=1e-3)


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


def test_a_deepspeed_file_may_not_contradict_the_configuration(tmp_path: Path) -> None:
    path = tmp_path / "ds.json"
    path.write_text(json.dumps({"gradient_clipping": 3.0}))
    with pytest.raises(ValueError, match=r"ds.json: gradient_clipping follows"):
        TrainConfig(**PATHS, steps=1, deepspeed=str(path)).for_deepspeed()
    path.write_text(json.dumps({"zero_optimization": {"stage": 3}}))
    with pytest.raises(ValueError, match=r"ZeRO stage 3, but zero_stage is 2"):
        TrainConfig(**PATHS, steps=1, deepspeed=str(path)).for_deepspeed()
