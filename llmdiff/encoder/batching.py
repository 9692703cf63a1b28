"""Batches by token budget, and what happens when memory runs out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch

logger = logging.getLogger(__name__)
Result = TypeVar("Result")
PADDING = 0.1  # largest share of a batch that may be padding,
SMALL = 0.125  # unless it holds less than this share of the budget
CPU_MEMORY = ("not enough memory", "can't allocate memory", "could not create a memory object")


@dataclass
class BatchBudget:
    """Tokens in a batch, padding included. A size for which memory did not suffice is not tried again."""

    tokens: int
    item: str = "caption"
    """Name of what a batch is made of, for messages."""
    unit: str = "tokens"
    """Name of what its size is counted in, for messages."""


def batches_by_tokens(lengths: list[int], budget: int) -> Iterator[list[int]]:
    """Yield batches of captions' indices, of similar length, longest first, at most ``budget`` tokens with padding.

    A batch ends where it is full, or where a share of it would be padding (and it is no small batch). A caption longer
    than the budget is a batch of its own.
    """
    batch: list[int] = []
    tokens = 0
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if batch:
            longest = lengths[batch[0]]
            padded = longest * (len(batch) + 1)
            large = longest * len(batch) >= SMALL * budget
            if padded > budget or (large and padded - tokens - lengths[i] > PADDING * padded):
                yield batch
                batch, tokens = [], 0
        batch.append(i)
        tokens += lengths[i]
    if batch:
        yield batch


def run_in_batches(
    lengths: list[int], budget: BatchBudget, run: Callable[[list[int]], Result]
) -> Iterator[tuple[list[int], Result]]:
    """Run ``run`` on every batch; where memory runs out, the budget is halved for all that comes after.

    Raises:
        MemoryError: one item alone does not fit.
    """
    left = list(range(len(lengths)))
    while left:
        finished: set[int] = set()
        try:
            for batch in batches_by_tokens([lengths[i] for i in left], budget.tokens):
                indices = [left[i] for i in batch]
                result = run(indices)
                finished.update(indices)
                yield indices, result
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            budget.tokens = _halved(indices, lengths, budget, error)
        left = [i for i in left if i not in finished]


def _halved(indices: list[int], lengths: list[int], budget: BatchBudget, error: Exception) -> int:
    """Return half of the budget, or of what the failed batch took of it."""
    used = len(indices) * max(lengths[i] for i in indices)
    if len(indices) == 1:
        size = f"of {used} {budget.unit} " * (budget.item not in budget.unit)
        raise MemoryError(f"one {budget.item} {size}does not fit into memory: {error}") from error
    halved = max(1, min(budget.tokens, used) // 2)
    logger.warning("out of memory on a batch of %d %s; going on with %d", used, budget.unit, halved)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return halved


def is_out_of_memory(error: Exception) -> bool:
    """Return whether the error says that an allocation failed, on a GPU or a CPU."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return any(text in str(error) for text in CPU_MEMORY)
