"""The step sizes ``g(t)`` and noise levels ``h(t)`` of Algorithm 1, which the paper leaves open."""

from __future__ import annotations

import math
from collections.abc import Callable

SCHEDULES: dict[str, Callable[[float], float]] = {  # by remaining depth t / T: 1 at the first block, 1 / T at the last
    "constant": lambda left: 1.0,
    "linear": lambda left: left,
    "cosine": lambda left: 0.5 * (1.0 - math.cos(math.pi * left)),
    "ddpm": lambda left: 1e-4 + (0.02 - 1e-4) * left,
}


def resolve_schedule(value: float | str | tuple[float, ...], blocks: int) -> tuple[float, ...]:
    """Return one number a block, from the embedding up (``t = T .. 1``).

    Args:
        value: one number for all blocks, one for each, or ``"name"`` or ``"name:mean"`` with a name of
            :data:`SCHEDULES`: the schedule's shape, scaled to that mean (1 where none is given).
        blocks: the number of blocks T.

    Raises:
        ValueError: a list of another length, or an unknown name.
    """
    if isinstance(value, str):
        name, mean = parse_schedule(value)
        shape = [SCHEDULES[name](t / blocks) for t in range(blocks, 0, -1)]
        return tuple(mean * blocks * weight / sum(shape) for weight in shape)
    if isinstance(value, tuple):
        if len(value) != blocks:
            raise ValueError(f"a schedule of {len(value)} numbers for an LLM of {blocks} blocks; expected {blocks}")
        return value
    return (float(value),) * blocks


def parse_schedule(value: str) -> tuple[str, float]:
    """Return ``"name"`` or ``"name:mean"`` as (name, mean); ValueError where it is neither."""
    name, _, mean = value.partition(":")
    if name not in SCHEDULES:
        raise ValueError(f"unknown schedule {name!r}; expected one of {', '.join(SCHEDULES)}, or 'name:mean'")
    try:
        return name, float(mean) if mean else 1.0
    except ValueError:
        raise ValueError(f"schedule {value!r}: expected a number after the colon, got {mean!r}") from None
