"""The learning rate of each step."""

from __future__ import annotations

import math
from typing import Any, get_args

import pytest
import torch
from diffusers.optimization import get_scheduler

from llmdiff.training import TrainConfig
from llmdiff.training.config import LRScheduler
from llmdiff.training.optimiser.learning_rate import learning_rate
from tests.training.training_run import PATHS


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
