"""The noise: Philox's published answers, a standard normal, and independence along every index."""

from __future__ import annotations

import pytest
import torch

from kernels.langevin import TokenRows, gaussian, langevin_step
from kernels.langevin.ops import MAX_BLOCKS
from kernels.langevin.reference import philox


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_the_published_answers(counter, key, words) -> None:
    """Known answers of Random123's ``kat_vectors``."""
    result = philox(tuple(torch.tensor([word]) for word in counter), key)
    assert tuple(word.item() for word in result) == words


def noise(*, seed: int = 0, caption: int = 1, block: int = 1, tokens: int = 64, hidden: int = 1024) -> torch.Tensor:
    rows = TokenRows(position=torch.arange(tokens, dtype=torch.int32), caption=torch.full((tokens,), caption))
    return gaussian(rows, hidden, seed, block)


def test_noise_is_standard_normal() -> None:
    z = noise(tokens=512, hidden=2048).flatten().double()  # 2^20: standard errors 0.001, 0.0014, 0.0024, 0.0048
    assert abs(z.mean()) < 0.004
    assert abs(z.var() - 1) < 0.006
    assert abs((z**3).mean()) < 0.01
    assert abs((z**4).mean() - 3) < 0.02
    assert 4.5 < z.abs().max() < 5.8


FIXED = {"seed": -5, "caption": 3 - 2**40, "block": 7, "token": 11, "channel": 6}


def along(index: str, count: int, step: int = 1) -> torch.Tensor:
    """float64 (count,). Noise drawn along one index, the other four fixed."""
    at = {name: torch.full((count,), value) for name, value in FIXED.items()}
    first = 0 if index in ("block", "token", "channel") else -(count // 2)
    at[index] = (torch.arange(count) + first) * step
    rows = TokenRows(position=at["token"].int(), caption=at["caption"])
    if index == "channel":
        return gaussian(rows[:1], count, FIXED["seed"], FIXED["block"])[0].double()
    z = gaussian(rows, FIXED["channel"] + 1, at["seed"][:, None], at["block"][:, None])  # a seed and a block a row
    return z[:, FIXED["channel"]].double()


ALONG = [
    *(("seed", 1 << 16, 1), ("seed", 1 << 16, 1 << 32)),
    *(("caption", 1 << 16, 1), ("caption", 1 << 16, 1 << 32)),
    *(("block", MAX_BLOCKS, 1), ("token", 1 << 16, 1), ("channel", 1 << 18, 1)),
]


@pytest.mark.parametrize(("index", "count", "step"), ALONG)
def test_noise_is_standard_normal_and_independent_along_each_index(index: str, count: int, step: int) -> None:
    """The first four moments within five standard errors of those of N(0, 1), whose z, z^2, z^3, z^4 vary by these."""
    z = along(index, count, step)
    for power, moment, variance in [(1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)]:
        assert abs((z**power).mean() - moment) < 5 * (variance / count) ** 0.5, power
    assert abs(z.var() - 1) < 5 * (2 / count) ** 0.5
    kurtosis = ((z - z.mean()) ** 4).mean() / z.var() ** 2
    assert abs(kurtosis - 3) < 5 * (24 / count) ** 0.5
    for shift in (1, 2, 3, 4, 5, 16):
        assert_uncorrelated(z[shift:], z[:-shift])


def test_noise_along_an_index_is_that_of_single_calls() -> None:
    for index in FIXED:
        z = along(index, 8)
        for i, value in enumerate(range(8) if index in ("block", "token", "channel") else range(-4, 4)):
            at = {**FIXED, index: value}
            rows = TokenRows(position=torch.tensor([at["token"]]), caption=torch.tensor([at["caption"]]))
            assert gaussian(rows, at["channel"] + 1, at["seed"], at["block"])[0, -1] == z[i]


BITS = {"seed": (0, 1, 31, 32, 40, 62), "caption": (0, 1, 31, 32, 40, 62), "block": (0, 1, 5, 11)}


@pytest.mark.parametrize(("index", "bit"), [(index, bit) for index, bits in BITS.items() for bit in bits])
def test_noise_is_independent_across_seed_caption_and_block(index: str, bit: int) -> None:
    values = (0, 1 << bit)
    one, other = (noise(**{index: value}).flatten() for value in values)
    assert_uncorrelated(one, other)


def test_noise_is_independent_across_tokens_and_channels() -> None:
    z = noise(tokens=256, hidden=1024)
    for shift in (1, 2, 3, 4, 5, 16, 128):
        assert_uncorrelated(z[shift:].flatten(), z[:-shift].flatten())
        assert_uncorrelated(z[:, shift:].flatten(), z[:, :-shift].flatten())


def test_noise_depends_on_the_low_and_the_high_half_of_every_index() -> None:
    base = noise(tokens=4, hidden=8)
    for other in (noise(tokens=4, hidden=8, seed=1 << 33), noise(tokens=4, hidden=8, caption=1 + (1 << 40))):
        assert (base != other).all()
    assert (noise(tokens=4, hidden=8, seed=-1) != noise(tokens=4, hidden=8, seed=2**32 - 1)).all()


@pytest.mark.parametrize("seed", [0, -1, -(2**31) - 1, -(2**63), 2**63 - 1])
@pytest.mark.parametrize("block", [0, MAX_BLOCKS - 1])
def test_noise_of_triton_is_that_of_pytorch(seed: int, block: int) -> None:
    """The ends of every index are tried: a negative seed, the last block, extreme captions, the last token."""
    position = torch.tensor([0, 1, 2**31 - 1, 5], dtype=torch.int32)
    rows = TokenRows(position=position, caption=torch.tensor([0, -1, 2**63 - 1, -(2**63)]))
    nothing = torch.zeros(4, 41)
    settings = {"rows": rows, "g": 1.0, "h": 0.5, "seed": seed, "block": block, "accumulate": False}
    result = langevin_step(torch.empty(4, 41), nothing, **settings, backend="triton")
    torch.testing.assert_close(result, gaussian(rows, 41, seed, block), rtol=1e-6, atol=1e-6)


def test_noise_is_the_same_however_the_rows_are_cut() -> None:
    whole = noise(tokens=16, hidden=37)
    rows = TokenRows(position=torch.tensor([9, 3], dtype=torch.int32), caption=torch.tensor([1, 1]))
    assert torch.equal(gaussian(rows, 20, 0, 1), whole[[9, 3], :20])


def assert_uncorrelated(one: torch.Tensor, other: torch.Tensor) -> None:
    """Neither the values nor their squares are correlated, within five standard errors."""
    bound = 5 / one.numel() ** 0.5
    assert abs(torch.corrcoef(torch.stack([one, other]))[0, 1]) < bound
    assert abs(torch.corrcoef(torch.stack([one**2, other**2]))[0, 1]) < bound
