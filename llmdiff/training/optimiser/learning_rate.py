"""The learning rate of each step: a function of the step alone, so that a resumed run needs to know no more."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from diffusers.optimization import get_scheduler

from llmdiff.training.config import LRScheduler, TrainConfig


def learning_rate(config: TrainConfig, step: int, steps: int) -> float:
    """Return the rate of a step from 1 to `steps`: a linear warm-up, then `TrainSettings.lr_scheduler`.

    The first step has a rate above 0, and so has the last one: a schedule reaches its end where one more would be.
    """
    if step <= config.warmup and config.lr_scheduler != "constant":
        return config.learning_rate * step / config.warmup
    schedule = (config.lr_scheduler, config.learning_rate, config.warmup, steps)
    return config.learning_rate * decay(*schedule, config.lr_num_cycles, config.lr_power)(step)


@lru_cache
def decay(name: LRScheduler, peak: float, warmup: int, steps: int, cycles: int, power: float) -> Callable[[int], float]:
    """Return diffusers' schedule of that name: from a step after the warm-up to the share of the `peak`."""
    nobody = torch.optim.SGD([torch.zeros(1)], lr=peak)  # which `get_scheduler` requires
    found = get_scheduler(
        name, nobody, num_warmup_steps=warmup, num_training_steps=steps + 1, num_cycles=cycles, power=power
    )
    share: Callable[[int], float] = found.lr_lambdas[0]
    return share
