"""Watch training for ways in which it is known to fail, and report each with what to change.

Text ignored, the original path drowned, NaN encodings, truncated captions. Nothing here changes a loss curve.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow.compute as pc
import torch
from torch import Tensor

from llmdiff.compilation import uncompiled
from llmdiff.training.objective import Objective, sample_generators

if TYPE_CHECKING:
    from llmdiff.adapter import LLMAdapter
    from storage import EncodingStore
    from storage.reading.dataset import Batch

EVERY = 50
"""Steps between two checks; a check is two more forward passes, one to two hundredths of the time."""
PATIENCE = 500
"""Steps before ignored text counts: a new `phi` has to learn first."""
WINDOW = 256
"""Number of the newest samples whose losses are compared with and without their own captions."""
LEAST_SHARE = 0.1
"""Share of a layer's output below which the original path counts as drowned."""
MOST_TRUNCATED = 0.01
"""Share of captions that may reach the encoder's limit."""

logger = logging.getLogger(__name__)


class Finding(NamedTuple):
    """A sign of failing training."""

    name: str
    badness: float
    """Measure of the failure, which is reported again once this has doubled."""
    text: str
    """Description of what was seen, and what to change."""
    own: bool = False
    """Whether the finding is about samples that only this process has seen."""


class TrainingMonitor:
    """Losses seen so far, and the findings that were reported."""

    def __init__(self, speaks: bool = True) -> None:
        """Take whether this process `speaks`: one process of a run reports the findings that all of them share."""
        self.speaks = speaks
        self.gains: deque[float] = deque(maxlen=WINDOW)
        self.reported: dict[str, float] = {}

    def look(self, step: int, batch: Batch, own: Tensor, others: Tensor, shares: Mapping[str, float]) -> list[str]:
        """Report what is new at this step.

        Args:
            step: optimiser steps done.
            batch: the batch of these losses.
            own: loss ``(batch,)`` of each sample under its own caption.
            others: the same, under another sample's caption.
            shares: the original path's share of each layer's output.
        """
        if len(own) > 1:  # alone, a sample has only its own caption
            self.gains.extend(filter(math.isfinite, gains(own, others)))
        return self.report(nan_inputs(batch), text_ignored(self.gains, step), original_drowned(shares))

    def report(self, *findings: Finding | None) -> list[str]:
        """Log each finding the first time, and again when it has got twice as bad; return what was logged."""
        new = [found for found in findings if found and found.badness >= 2 * self.reported.get(found.name, 0.0)]
        for found in new:
            self.reported[found.name] = found.badness
            if self.speaks or found.own:
                logger.warning("training warning: %s: %s", found.name, found.text)  # `infra.tracking.run` looks for it
        return [f"{found.name}: {found.text}" for found in new]


# Signs of failure


def text_ignored(gains: Sequence[float], step: int) -> Finding | None:
    """Return a finding where losses are not lower, by two standard errors, under a sample's own caption."""
    if step < PATIENCE or len(gains) < WINDOW:
        return None
    values = torch.tensor(list(gains), dtype=torch.float64)
    mean, error = values.mean().item(), values.std().item() / math.sqrt(len(values))
    if mean > 2 * error:
        return None
    return Finding(
        "text ignored",
        step,
        f"at step {step} a caption lowers the loss by {mean:.2%} ± {error:.2%}, compared with another picture's "
        "caption: check that captions and pictures belong together; then raise learning_rate, start with a larger "
        "adapter.new_weight, or lower caption_dropout",
    )


def original_drowned(shares: Mapping[str, float]) -> Finding | None:
    """Return a finding where little of the original attention is left in the U-Net's middle or a quarter of its layers.

    A layer or two elsewhere that live on the new path do no harm: a good run of the demonstration has one.
    """
    drowned = {name: share for name, share in shares.items() if share < LEAST_SHARE}
    if not any("mid_block" in name for name in drowned) and 4 * len(drowned) < max(1, len(shares)):
        return None
    worst = sorted(drowned, key=lambda name: ("mid_block" not in name, drowned[name]))
    named = ", ".join(f"{name} ({drowned[name]:.1%})" for name in worst[:3])
    return Finding(
        "original path drowned",
        len(drowned),
        f"it makes up less than {LEAST_SHARE:.0%} of the output in {len(drowned)} of {len(shares)} layers: {named}; "
        "pictures will lack spatial coherence: lower adapter.new_weight or learning_rate, raise warmup, "
        "or set adapter.learn_weights to false",
    )


def nan_inputs(batch: Batch) -> Finding | None:
    """Return a finding where a sample's encoding or latent is not finite."""
    finite = batch.encodings.isfinite().flatten(1).all(1) & batch.latents.isfinite().flatten(1).all(1)
    bad = [f"{source} row {row}" for (source, row), fine in zip(batch.rows, finite.tolist(), strict=True) if not fine]
    if not bad:
        return None
    return Finding(
        "NaN encodings",
        len(bad),
        f"{len(bad)} of {len(batch.rows)} samples have an encoding or a latent that is not finite, {bad[0]} first: "
        "encode them again with dtype=float32 (`llmdiff encode --set dtype=float32`) and train on that fingerprint",
        own=True,
    )


def captions_truncated(share: float, limit: int) -> Finding | None:
    """Return a finding where many captions have the encoder's maximal length, and so were probably cut."""
    if share <= MOST_TRUNCATED:
        return None
    return Finding(
        "truncated captions",
        share,
        f"{share:.1%} of the captions have the {limit} tokens that they were cut to; the entities that a caption "
        f"names last are lost: encode with a larger max_tokens (`llmdiff encode --set max_tokens={2 * limit}`)",
    )


# Measures that show them


@torch.no_grad()
def compare(objective: Objective, batch: Batch, epoch: int) -> tuple[Tensor, Tensor, dict[str, float]]:
    """Return each sample's loss ``(batch,)`` under its own caption and under its neighbour's, and `path_shares`.

    Noise, timesteps and dropped captions are those of the training step, so that only the captions differ.
    """
    (unet,) = objective.frozen

    def losses(captioned: Batch) -> Tensor:
        generators = sample_generators(objective.config.seed, epoch, batch, unet.device)
        found: Tensor = objective(captioned, generators, 1.0)[2]
        return found

    with uncompiled(objective.config.torch_compile):
        with path_shares(objective.adapter) as shares:
            own = losses(batch)
        return own, losses(swapped(batch)), shares


def gains(own: Tensor, others: Tensor) -> list[float]:
    """Return how much lower each sample's loss is under its own caption, as a share of both losses' mean."""
    own, others = own.double(), others.double()
    return (2 * (others - own) / (others + own).clamp(min=1e-12)).tolist()


def share_at_limit(store: EncodingStore, fingerprint: str) -> tuple[float, int]:
    """Return the share of samples whose caption has its LLM encoder's limit of tokens, and that limit; else (0, 0).

    Where tokens are dropped (`template_keep`), their number does not tell which captions were cut.
    """
    description = store.fingerprints()[fingerprint]
    limit = int(description.get("max_tokens") or 0)
    if description.get("kind") != "llm" or not limit or "template_keep" in description:
        return 0.0, 0
    samples = at_limit = 0
    for batch in store.snapshot().stream(["token_count", "source"], fingerprint):
        counts = batch.filter(pc.is_valid(batch["source"]))["token_count"]
        samples, at_limit = samples + len(counts), at_limit + (pc.sum(pc.greater_equal(counts, limit)).as_py() or 0)
    return at_limit / max(1, samples), limit


def swapped(batch: Batch) -> Batch:
    """Return a batch in which every sample has its neighbour's caption."""
    base, base_mask, pooled = batch.base_encodings, batch.base_mask, batch.pooled
    return replace(
        batch,
        encodings=batch.encodings.roll(1, 0),
        mask=batch.mask.roll(1, 0),
        base_encodings=None if base is None else base.roll(1, 0),
        base_mask=None if base_mask is None else base_mask.roll(1, 0),
        pooled=None if pooled is None else pooled.roll(1, 0),
    )


@contextmanager
def path_shares(adapter: LLMAdapter) -> Iterator[dict[str, float]]:
    """Collect, in forward passes of the block, each layer's share of the original path in its output's norm."""
    found: dict[str, float] = {}
    hooks = [
        layer.register_forward_hook(_share_into(found, name.replace("/", ".")))
        for name, layer in adapter.layers.items()
        if adapter.config.paths == "both"
    ]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _share_into(found: dict[str, float], name: str) -> Any:
    def hook(layer: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        original, _, scale = inputs
        kept = original * layer.weights(scale)[0]
        norm = kept.float().norm().item()
        found[name] = norm / max(norm + (output - kept).float().norm().item(), 1e-12)

    return hook
