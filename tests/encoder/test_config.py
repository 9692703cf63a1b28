"""The encoder's settings and schedules."""

from __future__ import annotations

import json
import math

import pytest

from llmdiff.encoder import EncoderConfig
from llmdiff.encoder.schedules import SCHEDULES, resolve_schedule


@pytest.mark.parametrize("name", SCHEDULES)
def test_named_schedules_fall_from_the_first_block_to_the_last_and_have_their_mean(name: str) -> None:
    values = resolve_schedule(f"{name}:0.25", 24)
    assert len(values) == 24
    assert list(values) == sorted(values, reverse=True)
    assert math.isclose(sum(values) / 24, 0.25)
    assert math.isclose(sum(resolve_schedule(name, 24)) / 24, 1.0)
    assert min(values) > 0


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("constant", [1.0, 1.0, 1.0, 1.0]),
        ("linear", [1.0, 0.75, 0.5, 0.25]),
        ("cosine", [1.0, (2 + 2**0.5) / 4, 0.5, (2 - 2**0.5) / 4]),  # sin^2 of pi t / 2 T
        ("ddpm", [0.02, 0.015025, 0.01005, 0.005075]),  # from 1e-4 (which no block has) to 0.02
    ],
)
def test_named_schedules_are_their_formulas(name: str, shape: list[float]) -> None:
    """With four blocks, t / T is 1, 3/4, 1/2, 1/4: the shape, scaled to its mean."""
    values = resolve_schedule(f"{name}:0.5", 4)
    assert list(values) == pytest.approx([0.5 * 4 * value / sum(shape) for value in shape], rel=1e-12)
    assert [SCHEDULES[name](t / 4) for t in (4, 3, 2, 1)] == pytest.approx(shape, rel=1e-12)


def test_numbers_and_lists() -> None:
    assert resolve_schedule(0.5, 3) == (0.5, 0.5, 0.5)
    assert resolve_schedule((1.0, 2.0), 2) == (1.0, 2.0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"word_path": "both"}, "word_path must be one of block, isolated; got 'both'"),
        ({"dtype": "int8"}, "dtype must be one of"),
        ({"noise": "on"}, "noise must be one of"),
        ({"initial": "ones"}, "initial must be one of"),
        ({"bands": 0}, "bands must be an integer of at least 1"),
        ({"max_tokens": 1.5}, "max_tokens must be an integer"),
        ({"token_budget": True}, "token_budget must be an integer"),
        ({"seed": 2**63}, "below 2\\^63"),
        ({"template": "a picture"}, "template must hold {caption} once"),
        ({"g": "quadratic"}, "unknown schedule 'quadratic'"),
        ({"g": "linear:x"}, "expected a number after the colon"),
        ({"g": float("nan")}, "g must be finite"),
        ({"h": -1.0, "noise": "cached"}, "h must be finite and not negative"),
        ({"h": 0.1}, "with noise='off'"),
    ],
)
def test_wrong_values_are_refused(settings, message) -> None:
    with pytest.raises(ValueError, match=message):
        EncoderConfig(**settings)


def test_unknown_keys_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown encoder setting word_pth"):
        EncoderConfig.from_dict({"word_pth": "block"})


def test_there_and_back() -> None:
    config = EncoderConfig(g=[1, 2, 3], h="ddpm:0.1", noise="cached", bands=3)
    assert EncoderConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
