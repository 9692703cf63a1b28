"""Layout pre-training: what a layout is, what its decoder reads, and what it teaches an adapter."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from llmdiff.adapter import LLMAdapter
from llmdiff.training import TrainConfig, layout, setup
from llmdiff.training.layout import LayoutDecoder, layout_of
from llmdiff.training.objective import Objective
from tests.training import training_run
from tests.training.training_run import train


@pytest.mark.parametrize(
    ("latent", "size"),
    [((8, 8), (8, 8)), ((64, 64), (16, 16)), ((64, 96), (11, 16)), ((2, 3), (2, 3)), ((2, 160), (1, 16))],
)
def test_a_layout_has_at_most_sixteen_numbers_a_side(latent: tuple[int, int], size: tuple[int, int]) -> None:
    assert layout_of(torch.rand(2, 4, *latent)).shape == (2, 4, *size)


def test_a_layout_holds_means_of_places() -> None:
    latents = torch.rand(2, 4, 32, 32)
    assert torch.equal(layout_of(latents[..., :8, :8]), latents[..., :8, :8])
    torch.testing.assert_close(layout_of(latents), F.avg_pool2d(latents, 2))


@torch.no_grad()
def test_the_decoder_reads_the_mean_of_bands_and_no_padding() -> None:
    torch.manual_seed(0)
    decoder, context, size = LayoutDecoder(16, 4), torch.randn(3, 5, 16), torch.Size((5, 8))
    found = decoder(context, size)
    assert found.shape == (3, 4, 5, 8)
    torch.testing.assert_close(decoder(F.pad(context, (0, 0, 0, 2)), size), found)
    banded = torch.cat([context - 1, context + 1], dim=-1)
    torch.testing.assert_close(decoder(banded, size), found)


@pytest.mark.process
def test_it_teaches_phi_and_the_refiner_alone(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error falls; what reads the U-Net is as it was."""
    errors: list[float] = []
    before: dict[str, torch.Tensor] = {}
    after: dict[str, torch.Tensor] = {}
    loss_of = layout.layout_loss

    def noted(objective: Objective, *arguments: Any) -> torch.Tensor:
        loss = loss_of(objective, *arguments)
        errors.append(loss.item())
        return loss

    def pretrain(objective: Objective, *arguments: Any) -> None:
        before.update(copy(objective.adapter))
        layout.pretrain_layout(objective, *arguments)
        after.update(copy(objective.adapter))

    monkeypatch.setattr(layout, "layout_loss", noted)
    monkeypatch.setattr(setup, "pretrain_layout", pretrain)
    train(config(root))
    assert sum(errors[-3:]) < 0.9 * sum(errors[:3])
    moved = {name for name in after if not torch.equal(after[name], before[name])}
    assert moved == {name for name in after if name.startswith(("phi.norm", "phi.linear", "refiner."))}


@pytest.mark.process
def test_a_sigterm_ends_it_at_once_and_saves_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it had learned is not taken for the whole of it: the same run begins it anew."""
    losses = iter(range(60))

    def interrupted_in_the_third(*arguments: Any) -> torch.Tensor:
        if next(losses) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return loss_of(*arguments)

    loss_of = layout.layout_loss
    monkeypatch.setattr(layout, "layout_loss", interrupted_in_the_third)
    run = config(root)
    train(run)
    assert next(losses) == 3
    assert not (Path(run.output) / "checkpoints").exists()
    assert not (Path(run.output) / "adapter").exists()


def config(root: Path) -> TrainConfig:
    adapter = {"refiner": 1, "standardise": True}
    return training_run.config(
        root, adapter=adapter, steps=1, layout_steps=60, layout_batch_size=24, layout_learning_rate=1e-2
    )


def copy(adapter: LLMAdapter) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in adapter.state().items()}
