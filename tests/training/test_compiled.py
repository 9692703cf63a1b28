"""Training with `torch_compile`: one graph for U-Net and adapter, no code for each length, and the same run."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler

from llmdiff import compilation
from llmdiff.adapter.padding import whole_length
from llmdiff.training import TrainConfig
from llmdiff.training.monitor import compare
from llmdiff.training.objective import Objective, UnconditionalEmbedding, prepare_unet, sample_generators
from storage.reading.dataset import Batch
from tests.adapter import tiny
from tests.graphs import Graphs
from tests.training import training_run
from tests.training.test_parts import CPU, make_batch
from tests.training.training_run import PATHS

pytestmark = pytest.mark.xdist_group("torch.compile")


def objective(bands: int = 1, adapter: dict[str, Any] | None = None, **settings: Any) -> Objective:
    config = TrainConfig(**PATHS, steps=1, caption_dropout=0.5, **settings)
    unet = tiny.unet(**tiny.SHALLOW)
    prepare_unet(unet, config)
    made = tiny.adapter(unet, {"bands": bands}, **(adapter or {}))
    made.install(unet)
    shape = (1, tiny.HIDDEN) if bands == 1 else (bands, 1, tiny.HIDDEN)
    null = UnconditionalEmbedding(torch.zeros(shape), None)
    return Objective(made, unet, DDPMScheduler.from_config(tiny.schedule().config), null, config)


def batch_of(tokens: int, bands: int = 1, side: int = 8) -> Batch:
    x = tiny.inputs(tokens=tokens)
    if bands > 1:
        x["encodings"] = torch.stack([x["encodings"]] * bands, dim=1)
    x["latents"] = x["latents"][..., :side]
    return make_batch(x)


def step(model: Objective, batch: Batch) -> tuple[float, list[torch.Tensor]]:
    """A batch's loss, and its gradients."""
    model.zero_grad()
    loss = model(batch, sample_generators(0, 0, batch, CPU), 1.0)[0]
    loss.backward()
    return loss.item(), [p.grad.clone() for p in model.parameters() if p.grad is not None]


def test_a_compiled_step_is_one_graph_for_every_length(graphs: Graphs) -> None:
    plain, compiled = objective(), objective(torch_compile=True)
    assert list(compiled.state_dict()) == list(plain.state_dict())
    for tokens in (5, 3, 9, 14):
        assert_alike(step(compiled, batch_of(tokens)), step(plain, batch_of(tokens)))
    assert (graphs.count, graphs.breaks) == (1, [])
    found = [compare(model, batch_of(6), epoch=0) for model in (plain, compiled)]  # of the monitor, with hooks
    assert found[1][2].keys() == found[0][2].keys() != set()
    torch.testing.assert_close(found[1][:2], found[0][:2])
    step(compiled, batch_of(7))
    assert graphs.count == 1
    step(compiled, batch_of(5, side=4))  # another shape of picture
    step(compiled, batch_of(8, side=4))
    step(compiled, batch_of(1))
    assert graphs.count == 2
    assert [whole_length(tokens) for tokens in (1, 64, 65, 120)] == [64, 64, 128, 128]


def test_every_other_setting_goes_with_it(graphs: Graphs) -> None:
    adapter = {"band_gates": True, "refiner": 1, "standardise": True}
    settings = {"bands": 2, "adapter": adapter, "gradient_checkpointing": True, "channels_last": True}
    settings |= {"precision": "bf16"}
    plain, compiled = objective(**settings), objective(**settings, torch_compile=True)
    for tokens in (5, 9):
        one, other = (step(model, batch_of(tokens, 2))[0] for model in (compiled, plain))
        assert one == pytest.approx(other, rel=0.01)
    assert (graphs.count, graphs.breaks) == (1, [])


def assert_alike(one: tuple[float, list[torch.Tensor]], other: tuple[float, list[torch.Tensor]]) -> None:
    assert one[0] == pytest.approx(other[0], rel=1e-5)
    torch.testing.assert_close(one[1], other[1], rtol=1e-4, atol=1e-5)


def test_inductor_knows_the_options_that_keep_a_resumed_run_the_same() -> None:
    """An unknown one would be refused here."""
    compilation.compiled_for_training(torch.sin)


@pytest.mark.process
def test_a_compiled_run_that_was_interrupted_is_the_whole_one(graphs: Graphs, root: Path) -> None:
    from llmdiff.training.loop import train

    drawing = {"sample_every": 3, "validation_prompts": ("caption 1",), "validation_steps": 2}
    whole = training_run.config(root, "whole", torch_compile=True, lr_scheduler="polynomial", lr_power=2.0, **drawing)
    train(training_run.resolved(whole))
    assert graphs.breaks == []
    assert graphs.count == 1
    shutil.copytree(whole.output, root / "parts")
    shutil.rmtree(root / "parts" / "adapter")
    shutil.rmtree(root / "parts" / "checkpoints" / "step-00000012")
    torch.compiler.reset()
    parts = whole.model_copy(update={"output": str(root / "parts")})
    train(training_run.resolved(parts))
    assert training_run.rows(parts) == training_run.rows(whole)
    for name in ("adapter", "checkpoints/step-00000012", "checkpoints/step-00000012/ema", "samples"):
        expected = {path.name: path.read_bytes() for path in (Path(whole.output) / name).glob("*.safetensors")}
        assert {path.name: path.read_bytes() for path in (root / "parts" / name).glob("*.safetensors")} == expected
