"""A learning rate that rises and falls once, for trainings of any length."""

from __future__ import annotations

from torch.optim import Optimizer
from torch.optim.lr_scheduler import OneCycleLR

WARM_UP = 0.1
"""Share of the steps in which the rate rises."""
LEAST = 11
"""Fewest steps of torch's schedule: for 10 with this warm-up it divides by zero."""


def one_cycle(optimiser: Optimizer, peak: float, steps: int) -> OneCycleLR:
    """Return the schedule, to be stepped after each of `steps` steps; fewer than `LEAST` steps end before it does."""
    return OneCycleLR(optimiser, peak, total_steps=max(LEAST, steps), pct_start=WARM_UP)
