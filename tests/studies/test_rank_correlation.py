"""Spearman's rho against scipy's, and its interval."""

from __future__ import annotations

import math

import numpy as np
import pytest

from llmdiff.studies.rank_correlation import rank_correlation, spearman


def test_rho_is_scipys_with_ties_too() -> None:
    from scipy.stats import spearmanr

    pairs = np.random.default_rng(0).integers(5, size=(20, 9, 2)).astype(float)
    for rho, sample in zip(spearman(pairs), pairs, strict=True):
        assert rho == pytest.approx(spearmanr(sample[:, 0], sample[:, 1]).statistic)


def test_an_interval_is_narrow_where_the_order_is_clear() -> None:
    one = {f"encoder {i}": i / 12 for i in range(12)}
    same = rank_correlation(one, {name: value**2 for name, value in reversed(one.items())})
    assert same == (1.0, 1.0, 1.0)
    noise = np.random.default_rng(1).normal(0, 0.15, 12)
    near = rank_correlation(one, {name: value + shift for (name, value), shift in zip(one.items(), noise, strict=True)})
    assert 0.5 < near.low < near.value < near.high <= 1.0
    assert near == rank_correlation(one, dict(zip(one, [*one.values()] + noise, strict=True)))
    other = dict(zip(one, np.random.default_rng(2).permutation(12) / 12, strict=True))
    assert rank_correlation(one, other).sign == 0


def test_what_has_no_order_has_no_correlation() -> None:
    flat = dict.fromkeys("abc", 0.5)
    assert math.isnan(rank_correlation({"a": 1.0, "b": 2.0, "c": 3.0}, flat).value)
    with pytest.raises(ValueError, match="expected two figures of 3 encoders or more"):
        rank_correlation({"a": 1.0, "b": 2.0}, {"a": 1.0, "b": 2.0})
    with pytest.raises(ValueError, match="expected two figures"):
        rank_correlation(flat, {**flat, "d": 1.0})
