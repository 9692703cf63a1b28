"""Tell whether one figure of encoders puts them in the same order as another."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy.stats import rankdata

from llmdiff.evaluation.bootstrap import RESAMPLES, percentiles
from llmdiff.studies.estimates import Estimate

LEAST = 3
"""Fewest encoders whose order is worth comparing."""


def rank_correlation(one: Mapping[str, float], other: Mapping[str, float], seed: int = 0) -> Estimate:
    """Return Spearman's rho of two figures of the same encoders, with its percentile bootstrap interval over encoders.

    Args:
        one: figures by encoder, such as a probe's binding.
        other: figures by encoder, such as a trained adapter's binding.
        seed: fixes the resampling.

    Raises:
        ValueError: they are not of the same encoders, or of fewer than three.
    """
    if one.keys() != other.keys() or len(one) < LEAST:
        raise ValueError(f"expected two figures of {LEAST} encoders or more, found {sorted(one)} and {sorted(other)}")
    pairs = np.array([[one[name], other[name]] for name in one])  # (encoder, 2)
    drawn = np.random.default_rng(seed).integers(len(pairs), size=(RESAMPLES, len(pairs)))
    resampled = spearman(pairs[drawn])
    value = float(spearman(pairs[None])[0])
    if np.isnan(resampled).all():
        return Estimate(value, float("nan"), float("nan"))
    return Estimate(value, *percentiles(resampled))


def spearman(pairs: np.ndarray) -> np.ndarray:
    """Return Spearman's rho of each sample ``(sample, encoder, 2)``; NaN where a figure is the same for all."""
    ranks = rankdata(pairs, axis=1)
    centred = ranks - ranks.mean(1, keepdims=True)
    covariance = (centred[..., 0] * centred[..., 1]).sum(1)
    variances = (centred**2).sum(1).prod(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        rho: np.ndarray = covariance / np.sqrt(variances)
    return rho
