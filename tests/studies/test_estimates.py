"""Shares and differences over prompts and trainings."""

from __future__ import annotations

import numpy as np
import pytest

from llmdiff.studies.estimates import difference, share, survived


def verdicts(p: float, seeds: int = 2, prompts: int = 200) -> np.ndarray:
    return (np.random.default_rng(int(p * 100) + seeds).random((seeds, prompts)) < p).astype(float)


def test_the_interval_holds_the_value_and_narrows_with_prompts() -> None:
    few, many = share(verdicts(0.5, prompts=20)), share(verdicts(0.5, prompts=2000))
    assert few.low < few.value < few.high
    assert few.high - few.low > 3 * (many.high - many.low)
    assert share(np.ones((2, 5))) == (1, 1, 1)


def test_the_interval_is_that_of_a_binomial_where_trainings_agree() -> None:
    found = share(np.tile(verdicts(0.3, seeds=1, prompts=400), (3, 1)))
    error = 1.96 * np.sqrt(found.value * (1 - found.value) / 400)
    assert found.high - found.value == pytest.approx(error, rel=0.15)


def test_trainings_that_differ_widen_the_interval() -> None:
    alike = np.tile(verdicts(0.5, seeds=1), (2, 1))
    unlike = np.stack([np.ones(200), np.zeros(200)])
    assert np.ptp(share(unlike)[1:]) > 3 * np.ptp(share(alike)[1:])


def test_prompts_are_paired() -> None:
    """Nine in ten prompts agree: a paired difference is certain where an unpaired one would not be."""
    one = verdicts(0.5, seeds=1, prompts=300)
    other = one.copy()
    other[0, :30] = 0
    gap = difference(one, other)
    assert gap.value == pytest.approx(one[0, :30].sum() / 300)
    assert gap.sign == 1
    assert difference(other, one).sign == -1
    assert difference(one, one) == (0, 0, 0)
    assert difference(np.tile(one, (3, 1)), one).sign == 0  # another number of trainings


def test_what_survives_of_a_gain() -> None:
    base, teacher = np.zeros((1, 100)), np.ones((2, 100))
    student = np.concatenate([np.ones((2, 50)), np.zeros((2, 50))], axis=1)
    found = survived(base, student, teacher)
    assert found.value == 0.5
    assert found.low < 0.5 < found.high
    assert survived(base, teacher, teacher) == (1, 1, 1)
    assert np.isnan(survived(teacher[:1], student, teacher).value)
    assert str(survived(teacher[:1], student, teacher)) == "not defined"
    hardly = base.copy()
    hardly[0, 0] = 1
    assert str(survived(base, student, hardly)) == "not defined", "a gain of one prompt in a hundred may be none"


def test_what_comes_back_of_one_model_s_own_gap_is_resampled_over_trainings() -> None:
    base, own = np.zeros((1, 100)), np.ones((1, 100))
    alike, unlike = np.tile(verdicts(0.5, seeds=1, prompts=100), (2, 1)), np.stack([np.ones(100), np.zeros(100)])
    assert survived(base, unlike, own).value == 0.5
    assert survived(base, unlike, own)[1:] == (0, 1)
    assert np.ptp(survived(base, alike, own)[1:]) < 0.3
