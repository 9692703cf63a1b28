"""Shares of prompts over several training seeds, with intervals, and differences of two."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from llmdiff.evaluation.bootstrap import RESAMPLES, percentiles


class Estimate(NamedTuple):
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        if np.isnan(self.value):
            return "not defined"
        return f"{self.value:.2f} ({self.low:.2f} to {self.high:.2f})"

    @property
    def sign(self) -> int:
        """1 or -1 where the whole interval is on one side of 0, else 0."""
        return int(self.low > 0) - int(self.high < 0)


def share(verdicts: np.ndarray) -> Estimate:
    """Return the mean of verdicts ``(seed, prompt)``; seeds and prompts are both resampled."""
    return _estimate(np.array(verdicts.mean()), _means(*_draw(verdicts.shape), verdicts))


def difference(one: np.ndarray, other: np.ndarray) -> Estimate:
    """Estimate the difference of two shares on the same prompts, ``(seed, prompt)`` each.

    Prompts are resampled together, and so are seeds where there are as many: seed i saw the same samples in the same
    order and the same noise in both.
    """
    rows, columns = _draw(one.shape)
    other_rows = rows if len(other) == len(one) else _draw(other.shape, seed=1)[0]
    resampled = _means(rows, columns, one) - _means(other_rows, columns, other)
    return _estimate(one.mean() - other.mean(), resampled)


def survived(base: np.ndarray, student: np.ndarray, teacher: np.ndarray) -> Estimate:
    """Return how much of the teacher's gain over the base the student has: (student - base) / (teacher - base).

    All three are ``(seed, prompt)``, the base of one seed; prompts are resampled together, and seeds where there are
    several. Undefined where the teacher's gain can't be told from none.
    """
    rows, columns = _draw(teacher.shape)
    base_rows = np.ones((RESAMPLES, 1), int)
    low, high = _means(base_rows, columns, base[:1]), _means(rows, columns, teacher)
    student_rows = rows if len(student) == len(teacher) else _draw(student.shape)[0]
    found, gains = _means(student_rows, columns, student), high - low
    if percentiles(gains)[0] <= 0:
        return Estimate(float("nan"), float("nan"), float("nan"))
    with np.errstate(divide="ignore", invalid="ignore"):
        resampled = np.where(gains > 0, (found - low) / gains, np.nan)
    return _estimate((student.mean() - base.mean()) / (teacher.mean() - base.mean()), resampled)


@lru_cache(maxsize=4)  # one study compares many settings on the same seeds and prompts
def _draw(shape: tuple[int, ...], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Draw with replacement; return how often each seed is drawn, ``(resample, seed)``, and each prompt, likewise."""
    seeds, prompts = shape
    rng = np.random.default_rng(seed)
    columns = rng.integers(prompts, size=(RESAMPLES, prompts))  # first, so that it depends on the prompts alone
    return _counts(rng.integers(seeds, size=(RESAMPLES, seeds))), _counts(columns)


def _counts(drawn: np.ndarray) -> np.ndarray:
    """Return how often each of a resample's `n` numbers below `n` is in it, ``(resample, n)``."""
    resamples, n = drawn.shape
    drawn = drawn + n * np.arange(resamples)[:, None]
    return np.bincount(drawn.ravel(), minlength=drawn.size).reshape(resamples, n)


def _means(rows: np.ndarray, columns: np.ndarray, verdicts: np.ndarray) -> np.ndarray:
    """Return the mean of each resample, ``(resample,)``."""
    sums: np.ndarray = ((rows @ verdicts) * columns).sum(1)  # exact, for verdicts are whole or half
    return sums / verdicts.size


def _estimate(value: np.ndarray | float, resampled: np.ndarray) -> Estimate:
    if np.isnan(resampled).all():
        return Estimate(float(value), float("nan"), float("nan"))
    return Estimate(float(value), *percentiles(resampled))
