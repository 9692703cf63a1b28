"""AdamW with moments of 8 bits, by the real torchao: what is saved of it goes on bit by bit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from llmdiff.training import TrainConfig
from llmdiff.training.optimiser.adamw_8bit import loaded, saved, set_rate, zero_stage_0_adamw_8bit
from llmdiff.training.optimiser.zero_stage_0 import ZeroStage0Optimizer
from tests.training import training_run

pytest.importorskip("torchao")


@pytest.fixture(autouse=True)
def as_it_is_written() -> Iterator[None]:
    """Leave the step uncompiled: to compile it takes half a minute, and changes rounding alone."""
    with torch.compiler.set_stance("force_eager"):
        yield


def parameters() -> list[torch.nn.Parameter]:
    """A parameter of 8-bit moments, and one that is too small for them."""
    torch.manual_seed(0)
    return [torch.nn.Parameter(torch.randn(64, 80)), torch.nn.Parameter(torch.randn(80))]


def steps(optimiser: ZeroStage0Optimizer, weights: list[torch.nn.Parameter], first: int, last: int) -> None:
    for step in range(first, last):
        generator = torch.Generator().manual_seed(step)
        for weight in weights:
            weight.grad = torch.randn(weight.shape, generator=generator)
        set_rate(optimiser.param_groups[0], 0.01 / step)
        optimiser.step()


def test_moments_come_back_from_a_file_bit_by_bit(tmp_path: Path) -> None:
    weights = parameters()
    optimiser = zero_stage_0_adamw_8bit(weights, clip=1.0, lr=0.1)
    steps(optimiser, weights, 1, 6)
    tensors = {
        f"{i}.{key}{part}": tensor
        for i, weight in enumerate(weights)
        for key in ("exp_avg", "exp_avg_sq")
        for part, tensor in saved(optimiser.state[weight][key]).items()
    }
    save_file(tensors, tmp_path / "moments.safetensors")
    tensors = load_file(tmp_path / "moments.safetensors")
    assert tensors["0.exp_avg.codes"].dtype == torch.uint8
    assert tensors["0.exp_avg.scale"].shape == (64 * 80 // 256,)
    assert tensors["1.exp_avg"].dtype == torch.float32
    others = [torch.nn.Parameter(weight.detach().clone()) for weight in weights]
    resumed = zero_stage_0_adamw_8bit(others, clip=1.0, lr=0.1)
    for i, weight in enumerate(others):
        found = {key: loaded(tensors, f"{i}.{key}", key == "exp_avg", weight) for key in ("exp_avg", "exp_avg_sq")}
        resumed.state[weight] = {"step": torch.tensor(5.0), **found}
    steps(optimiser, weights, 6, 10)
    steps(resumed, others, 6, 10)
    assert all(map(torch.equal, weights, others))


@pytest.mark.process
def test_a_run_that_was_interrupted_is_the_whole_one(root: Path) -> None:
    whole = config(root, "whole")
    train(whole)
    moments = load_file(Path(whole.output) / "checkpoints" / "step-00000012" / "optimizer.safetensors")
    assert {name for name in moments if name.endswith(".codes")} == {
        f"refiner.blocks.0.mlp_{end}.weight.{key}.codes" for end in ("in", "out") for key in ("exp_avg", "exp_avg_sq")
    }
    shutil.copytree(whole.output, root / "parts")
    shutil.rmtree(root / "parts" / "adapter")
    shutil.rmtree(root / "parts" / "checkpoints" / "step-00000012")
    parts = config(root, "parts")
    train(parts)
    assert training_run.rows(parts) == training_run.rows(whole)
    for name in ("adapter.safetensors", "optimizer.safetensors"):
        one, other = (Path(run.output) / "checkpoints" / "step-00000012" / name for run in (whole, parts))
        assert one.read_bytes() == other.read_bytes()
    plain = config(root, "plain", optimizer="adamw")
    train(plain)
    assert training_run.losses(whole) != training_run.losses(plain)
    assert training_run.losses(whole) == pytest.approx(training_run.losses(plain), rel=0.05)
    saved = json.loads((Path(whole.output) / "config.json").read_text())
    assert saved["optimizer"] == "adamw_8bit"


def config(root: Path, output: str, optimizer: str = "adamw_8bit") -> TrainConfig:
    """A run in which the refiner's two largest matrices have moments of 8 bits."""
    return training_run.config(root, output, optimizer=optimizer, zero_stage=0, adapter={"refiner": 1})


def train(config: TrainConfig) -> None:
    from llmdiff.training.loop import train

    train(training_run.resolved(config))
