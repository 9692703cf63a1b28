"""Measure encodings: norms, effective rank, agreement between seeds, overlap of sentence and word scores."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from llmdiff.encoder import BadCaption, Encoder
from llmdiff.encoder.inspect import Inspection, inspect

DEGENERATE = 0.1
"""A score difference below this share of the sentence score's norm is degenerate: the word alone says nearly all."""


def geometry(encoder: Encoder, captions: Sequence[str], reseeded: Encoder) -> dict[str, float]:
    """Return the figures of an encoder's encodings of some captions.

    Args:
        encoder: the encoder that makes the encodings.
        captions: a few hundred.
        reseeded: the same encoder with another seed.

    Returns:
        norm: root mean square over tokens of an encoding's norm. rank: `effective_rank` over all tokens.
        seed_cosine: `mean_cosine` of the encodings under two seeds. nonfinite: share of captions with NaN or infinity.
    """
    pairs = zip(encoder.encode(captions), reseeded.encode(captions), strict=True)
    finite = [(a, b) for a, b in pairs if not isinstance(a, BadCaption) and not isinstance(b, BadCaption)]
    nonfinite = 1 - len(finite) / len(captions)
    if not finite:
        return {"norm": math.nan, "rank": math.nan, "seed_cosine": math.nan, "nonfinite": nonfinite}
    one = tokens_of([a for a, _ in finite], encoder.noise_std, 0)
    other = tokens_of([b for _, b in finite], reseeded.noise_std, 1)
    return {
        "norm": float(one.square().sum(-1).mean().sqrt()),
        "rank": effective_rank(one),
        "seed_cosine": mean_cosine(one, other),
        "nonfinite": nonfinite,
    }


def tokens_of(encodings: Sequence[Tensor], noise_std: Sequence[float], seed: int) -> Tensor:
    """Return the tokens of encodings ``([band,] token, hidden)`` as ``(token, hidden)``, bands and noise added."""
    rows = torch.cat([encoding.sum(0) if encoding.ndim == 3 else encoding for encoding in encodings]).double()
    std = math.sqrt(sum(level**2 for level in noise_std))
    noise = torch.randn(rows.shape, generator=torch.Generator().manual_seed(seed), dtype=rows.dtype)
    return rows + std * noise


def effective_rank(rows: Tensor) -> float:
    """Return the effective rank of ``(row, channel)`` (Roy and Vetterli, 2007), after subtracting the mean.

    It is the exponential of the entropy of the singular values' shares: 1 for rows on a line, and at most the number of
    channels, where no direction is preferred.
    """
    values = torch.linalg.svdvals(rows.double() - rows.double().mean(0))
    total = values.sum()
    if total == 0:
        return 1.0
    shares = values / total
    shares = shares[shares > 0]
    return float((-(shares * shares.log()).sum()).exp())


def mean_cosine(one: Tensor, other: Tensor) -> float:
    """Return the mean cosine between rows ``(row, channel)`` of two tensors; it is 1 between two rows of zeros."""
    zero = (one.abs().amax(-1) == 0) & (other.abs().amax(-1) == 0)
    cosine = torch.nn.functional.cosine_similarity(one.double(), other.double(), dim=-1)
    return float(torch.where(zero, 1.0, cosine).mean())


def r_squared(predicted: Tensor, true: Tensor) -> float:
    """Return the share of the variance of ``(row, channel)``, over all channels, that a prediction explains."""
    true = true.double()
    left = (predicted.double() - true).square().sum()
    return float(1 - left / (true - true.mean(0)).square().sum())


def overlap(encoder: Encoder, captions: Sequence[str]) -> dict[str, float]:
    """Return how much sentence and word scores overlap, block by block and token by token, first tokens left out.

    Returns:
        overlap: mean cosine of ``S_t(d)`` and ``W_t(d)``. degenerate: share with ``|S - W| < 0.1 |S|``.
    """
    found = [overlap_of(inspect(encoder, caption)) for caption in captions]
    cosines = torch.cat([cosine for cosine, _ in found])
    shares = torch.cat([share for _, share in found])
    return {"overlap": float(cosines.mean()), "degenerate": float((shares < DEGENERATE).double().mean())}


def overlap_of(inspection: Inspection) -> tuple[Tensor, Tensor]:
    """Return a caption's cosine of both scores, by the law of cosines, and ``|S - W| / |S|``, ``(block * token,)``."""
    sentence, word, context = (
        inspection.norms[name][:, 1:].double().flatten() for name in ("sentence", "word", "context")
    )
    both = (2 * sentence * word).clamp_min(1e-30)
    cosine = ((sentence**2 + word**2 - context**2) / both).clamp(-1, 1)
    return cosine, context / sentence.clamp_min(1e-30)
