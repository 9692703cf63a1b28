"""Train a probe of one kind of encodings, then ask it about captions of held-out pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from llmdiff.adapter.padding import by_length, pad
from llmdiff.adapter.statistics import channel_statistics
from llmdiff.one_cycle import one_cycle
from llmdiff.probe.captions import Labelled, ProbeCaptions
from llmdiff.probe.model import Probe

BATCH, LEARNING_RATE, WEIGHT_DECAY = 64, 2e-3, 0.05
KINDS = [0, 1, 3, 4]
"""The questions about colour and shape of both things."""
SWAPPED = [3, 4, 5, 0, 1, 2, 6]
"""The questions with the two things in the other order."""
AXIS = 6


@dataclass(frozen=True, kw_only=True)
class ProbeConfig:
    """Sizes of a probe and of its training."""

    captions: int = 1200
    """Captions that a probe is trained on."""
    tests: int = 200
    """Captions of held-out pairs that it is asked about, in wordings of training, and as many in new wordings."""
    steps: int = 400
    """Steps of training, of 64 captions."""
    seed: int = 0
    """Seed of captions, first weights and batches."""


class Figures(NamedTuple):
    """Results of a probe, as shares of captions of held-out pairs."""

    binding: float
    """Share with colour and shape of both things right, in either order, in wordings of training."""
    relation: float
    """Share with colour, shape, order and axis right: who is what and where."""
    new_binding: float
    """The share of `binding` in wordings that the probe never saw."""
    new_relation: float
    """The share of `relation` in wordings that the probe never saw."""

    @property
    def mean(self) -> float:
        """Mean of the four shares."""
        return sum(self) / len(self)


class Padded(NamedTuple):
    """Encodings padded to one length, and their mask."""

    encodings: Tensor
    """bfloat16 (caption, [band,] token, hidden), as a store holds them."""
    mask: Tensor
    """bool (caption, token), False for padding."""


def prepare_probe(
    encodings: Sequence[Tensor], captions: ProbeCaptions, refiner: int, config: ProbeConfig
) -> Callable[[], Figures]:
    """Return a call that trains a probe with so many blocks of a refiner, and asks it.

    It draws no global random numbers, so several calls may run in threads, and give what they would one by one.

    Args:
        encodings: those of `ProbeCaptions.all`, ``([band,] token, hidden)`` each.
        captions: the captions that they encode.
        refiner: blocks of the refiner.
        config: how large the probe is.

    Raises:
        ValueError: an encoding is not finite.
    """
    bands, hidden = encodings[0].shape[0] if encodings[0].ndim == 3 else 1, encodings[0].shape[-1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        probe = Probe(hidden, bands, refiner)

    def run() -> Figures:
        stored = [encoding.bfloat16() for encoding in encodings]
        padded = Padded(*pad(stored))
        if not padded.encodings.isfinite().all():
            raise ValueError("probe: expected encodings of finite numbers, found NaN or infinity")
        probe.standardise(*channel_statistics(stored[: len(captions.train.captions)]))
        fit(probe, padded, captions.train.answers, config)
        counts = [len(one.captions) for one in (captions.train, captions.natural, captions.new)]
        _, natural, new = torch.arange(len(stored)).split(counts)
        return Figures(*ask(probe, padded, natural, captions.natural), *ask(probe, padded, new, captions.new))

    return run


def fit(probe: Probe, padded: Padded, answers: Tensor, config: ProbeConfig) -> None:
    """Train by cross-entropy, summed over the questions; the rate rises and falls once."""
    optimiser = torch.optim.AdamW(probe.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    rate = one_cycle(optimiser, LEARNING_RATE, config.steps)
    drawn = torch.Generator().manual_seed(config.seed)
    for _ in range(config.steps):
        rows = torch.randint(len(answers), (BATCH,), generator=drawn)
        logits = read(probe, padded, rows)
        loss = torch.stack([F.cross_entropy(one, answers[rows, i]) for i, one in enumerate(logits)]).sum()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(probe.parameters(), 1.0)
        optimiser.step()
        rate.step()


def read(probe: Probe, padded: Padded, rows: Tensor) -> list[Tensor]:
    """Return a probe's logits ``(caption, choice)`` for each question, of the captions at `rows`."""
    order, parts = [], []
    for group, tokens in by_length(padded.mask[rows]):
        some = rows[group]
        order.append(group)
        parts.append(probe(padded.encodings[some, ..., :tokens, :], padded.mask[some, :tokens]))
    back = torch.cat(order).argsort()
    return [torch.cat(logits)[back] for logits in zip(*parts, strict=True)]


@torch.no_grad()
def ask(probe: Probe, padded: Padded, rows: Tensor, test: Labelled) -> tuple[float, float]:
    """Return the shares of a test's captions with binding and with relation right; `rows` are their places."""
    given = torch.stack([logits.argmax(-1) for logits in read(probe, padded, rows)], dim=1)  # (caption, q)
    in_order = (given == test.answers)[:, KINDS].all(1)
    swapped = (given == test.answers[:, SWAPPED])[:, KINDS].all(1)
    right = in_order & (given == test.answers)[:, AXIS]
    return (in_order | swapped).float().mean().item(), right.float().mean().item()
