"""Losses and gradients that are not finite: a step is left out, or the run stops in its last good state."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from llmdiff.training import TrainConfig
from llmdiff.training.checkpoints.state import complete, read_state
from tests.training import training_run
from tests.training.training_run import train

pytestmark = pytest.mark.process


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_sample_that_gives_no_finite_loss_costs_its_step_alone(root: Path, stage: int) -> None:
    training_run.own_store(root, broken=True)
    config = training_run.config(root, zero_stage=stage)
    train(config)
    rows = training_run.rows(config)
    assert rows[-1]["skipped"] == 2  # one in each of two epochs
    assert len(rows) == 10
    assert all(math.isfinite(row["loss"]) for row in rows)
    state = read_state(complete(Path(config.output) / "checkpoints")[-1])
    assert (state.step, state.updates, state.skipped) == (12, 10, 2)
    for name in ("adapter", "adapter-raw"):
        tensors = load_file(Path(config.output) / name / "adapter.safetensors").values()
        assert all(tensor.isfinite().all() for tensor in tensors)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_gradients_that_stay_not_finite_stop_the_run_in_its_last_good_state(
    finished: TrainConfig, root: Path, monkeypatch: pytest.MonkeyPatch, stage: int
) -> None:
    from llmdiff.training import objective

    config = training_run.config(root, zero_stage=stage)
    forward, calls = objective.Objective.forward, []

    def broken(self: objective.Objective, *arguments: object) -> tuple[torch.Tensor, ...]:
        loss, *values = forward(self, *arguments)  # type: ignore[arg-type]
        calls.append(loss)
        if len(calls) > 6:
            loss = loss + (loss * 0).sqrt()  # 0, with a gradient that is NaN
        assert loss.isfinite()
        return loss, *values

    monkeypatch.setattr(objective.Objective, "forward", broken)
    with pytest.raises(FloatingPointError, match=r"step 11: 5 steps in a row .* has the last good state"):
        train(config)
    saved = complete(Path(config.output) / "checkpoints")[-1]
    assert (saved.name, read_state(saved).updates) == ("step-00000011", 6)
    assert all(tensor.isfinite().all() for tensor in load_file(saved / "ema" / "adapter.safetensors").values())
    assert [row["step"] for row in training_run.rows(config)] == [1, 2, 3, 4, 5, 6]
    monkeypatch.undo()
    train(config)
    assert [row["step"] for row in training_run.rows(config)] == [1, 2, 3, 4, 5, 6, 12]
    assert training_run.losses(config)[:6] == pytest.approx(training_run.losses(finished)[:6], rel=1e-4)
