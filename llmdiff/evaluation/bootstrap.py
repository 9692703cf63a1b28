"""Percentile bootstrap intervals over prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

RESAMPLES = 2000


def interval(
    statistic: Callable[..., np.ndarray], *samples: np.ndarray, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Return the percentile interval of a statistic under resampling of prompts.

    Args:
        statistic: takes the samples' resampled means, each ``(resample,)``, and returns ``(resample,)``.
        samples: ``(prompt,)`` each, paired: prompt `i` is the same in all of them.
        level: share of resamples inside the interval.
        seed: fixes the resampling.
    """
    count = len(samples[0])
    rows = np.random.default_rng(seed).integers(count, size=(RESAMPLES, count))
    values = statistic(*(sample[rows].mean(1) for sample in samples))
    return percentiles(values, level)


def mean_interval(sample: np.ndarray) -> tuple[float, float]:
    """Return the interval of a ``(prompt,)`` sample's mean."""
    return interval(lambda mean: mean, sample)


def percentiles(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Return the interval that holds the middle `level` of resampled values."""
    tail = (1 - level) / 2
    low, high = np.nanquantile(values, [tail, 1 - tail])
    return float(low), float(high)


def unit_means(values: np.ndarray, units: Sequence[int]) -> np.ndarray:
    """Return the mean of each unit's values, ``(unit,)``, units in ascending order: these means are resampled."""
    _, index, counts = np.unique(np.asarray(units), return_inverse=True, return_counts=True)
    return np.bincount(index, values.astype(np.float64)) / counts
