"""The Langevin step: PyTorch against a formula written out, Triton (interpreted) against PyTorch, and the noise."""

from __future__ import annotations

import itertools
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import triton
import triton.language as tl

from kernels.langevin import TokenRows, gaussian, langevin_step, reference, triton_impl
from kernels.langevin.ops import MAX_BLOCKS
from kernels.langevin.reference import philox
from kernels.langevin.triton_impl import langevin_kernel, row_offset, sin_cos
from tests.kernels.allocations import Allocations

ROOT = Path(__file__).parents[2]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SHAPES = [(1, 1), (1, 16), (5, 41), (7, 401), (3, 1271), (2, 2049)]
TERMS = [(False, False), (True, False), (True, True), (False, True)]


def rows_of(count: int, *, source: torch.Tensor | None = None, padding: tuple[int, ...] = ()) -> TokenRows:
    """Rows of captions of three tokens each."""
    position = torch.arange(count, dtype=torch.int32) % 3
    position[list(padding)] = -1
    caption = (torch.arange(count) // 3 + 7) * -(2**40) - 3
    return TokenRows(position=position, caption=caption, source=source)


def written_out(c, plus, also, minus, rows, g, h, seed, block):
    """The step, a row at a time, in float64."""
    result = c.double().clone()
    noise = gaussian(rows, c.shape[1], seed, block).double()
    for i in range(len(rows)):
        j = i if rows.source is None else int(rows.source[i])
        score = plus[j].double()
        score = score + (0 if also is None else also[j].double()) - (0 if minus is None else minus[j].double())
        if rows.position[i] >= 0:
            result[i] += (g * score if rows.position[i] > 0 else 0) + (2 * h) ** 0.5 * noise[i]
    return result


@pytest.mark.parametrize("backend", ["torch", "triton"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_step_is_the_formula(backend: str, dtype: torch.dtype, shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    c = torch.randn(shape)
    for (with_also, with_minus), h in zip(TERMS, itertools.cycle((0.0, 0.7)), strict=False):
        plus, also, minus = (torch.randn(shape).to(dtype) for _ in range(3))
        terms = (plus, also if with_also else None, minus if with_minus else None)
        settings = {"rows": rows_of(shape[0]), "g": 0.3, "h": h, "seed": 2**35 + 1, "block": 3}
        expected = written_out(c, *terms, **settings)
        result = langevin_step(c.clone(), *terms, **settings, backend=backend)
        torch.testing.assert_close(result.double(), expected, rtol=1e-6, atol=2e-6)


@pytest.mark.parametrize("backend", ["torch", "triton"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_outputs_full_of_nan_are_overwritten_and_padding_is_left(backend: str, dtype: torch.dtype) -> None:
    plus = torch.randn(6, 41).to(torch.bfloat16)
    rows = rows_of(6, padding=(1, 5))
    out = torch.full((6, 41), torch.nan, dtype=dtype)
    c = torch.full((6, 41), torch.nan)
    langevin_step(c, plus, rows=rows, g=2.0, accumulate=False, out=out, backend=backend)
    expected = (2.0 * plus.float()).to(dtype)
    expected[rows.position == 0] = 0.0
    expected[rows.position < 0] = torch.nan
    torch.testing.assert_close(out, expected, rtol=0, atol=0, equal_nan=True)
    assert c.isnan().all()


@pytest.mark.parametrize("backend", ["torch", "triton"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("out_dtype", [None, *DTYPES], ids=str)
def test_a_ragged_band_full_of_nan_is_overwritten_and_nothing_beside_it(
    backend: str, dtype: torch.dtype, out_dtype: torch.dtype | None
) -> None:
    """Outputs padded and with NaN in their padding; of the bands, one is written, in place or elsewhere."""
    plus, minus = (torch.randn(12, 41).to(dtype) for _ in range(2))
    source = torch.tensor([0, 1, 2, 8, 10], dtype=torch.int32)
    padding = [j for j in range(12) if j not in source]
    plus[padding] = minus[padding] = torch.nan
    rows = rows_of(5, source=source, padding=(4,))
    c = torch.full((5, 3, 41), torch.nan)
    target = c if out_dtype is None else torch.full((5, 3, 41), torch.nan, dtype=out_dtype)
    settings = {"rows": rows, "g": 2.0, "h": 0.3, "seed": -7, "block": 4}
    out = None if out_dtype is None else target[:, 1]
    langevin_step(c[:, 1], plus, None, minus, **settings, accumulate=False, out=out, backend=backend)
    expected = written_out(torch.zeros(5, 41), plus, None, minus, **settings)
    expected[4] = torch.nan
    close = {"rtol": 1e-6, "atol": 2e-6} if target.dtype == torch.float32 else {"rtol": 2.0**-7, "atol": 2e-6}
    torch.testing.assert_close(target[:, 1].double(), expected, **close, equal_nan=True)
    assert target[:, [0, 2]].isnan().all()
    assert out_dtype is None or c.isnan().all()


@pytest.mark.parametrize("backend", ["torch", "triton"])
@pytest.mark.parametrize("h", [0.0, 0.7])
def test_a_caption_wholly_of_padding_is_left_as_it_is(backend: str, h: float) -> None:
    before = torch.randn(9, 41)
    before[4] = torch.nan
    plus = torch.full((9, 41), torch.nan)
    plus[6:] = 1.0
    settings = {"g": 2.0, "h": h, "backend": backend}
    for padding in [(3, 4, 5), tuple(range(9))]:
        after = langevin_step(before.clone(), plus, rows=rows_of(9, padding=padding), **settings)
        torch.testing.assert_close(after[list(padding)], before[list(padding)], rtol=0, atol=0, equal_nan=True)
    rows = rows_of(9, padding=(0, 1, 2, 3, 4, 5))
    after = langevin_step(before.clone(), plus, rows=rows, **settings)
    assert after[6:].isfinite().all()
    assert (after[7:] != before[7:]).all()


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_ragged_rows_read_the_padded_row_they_come_from(backend: str) -> None:
    plus = torch.randn(12, 48)
    source = torch.tensor([0, 1, 2, 8, 10], dtype=torch.int32)
    c = torch.zeros(5, 48)
    langevin_step(c, plus, rows=rows_of(5, source=source), g=1.0, backend=backend)
    expected = plus[source.long()]
    expected[[0, 3]] = 0.0
    assert torch.equal(c, expected)


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_a_band_is_a_view(backend: str) -> None:
    bands = torch.zeros(4, 3, 41)
    plus = torch.randn(4, 41)
    rows = TokenRows(position=torch.ones(4, dtype=torch.int32), caption=torch.zeros(4, dtype=torch.int64))
    langevin_step(bands[:, 1], plus, rows=rows, g=1.0, backend=backend)
    assert torch.equal(bands[:, 1], plus)
    assert not bands[:, [0, 2]].any()


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_no_rows(backend: str) -> None:
    c = torch.empty(0, 16)
    assert langevin_step(c, torch.empty(0, 16), rows=rows_of(0), g=1.0, backend=backend) is c


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_the_first_token_scores_zero_but_a_nan_stays(backend: str) -> None:
    plus = torch.randn(3, 16)
    plus[0, 5] = torch.nan
    c = langevin_step(torch.zeros(3, 16), plus, rows=rows_of(3), g=1.0, backend=backend)
    assert c[0].isnan().nonzero().flatten().tolist() == [5]
    assert not c[0].nan_to_num().any()


def test_many_rows_are_worked_on_in_pieces() -> None:
    shape = (700, 1024)
    plus, c = torch.randn(shape), torch.randn(shape)
    rows = rows_of(700)
    result = langevin_step(c.clone(), plus, rows=rows, g=0.5)
    expected = c + 0.5 * plus * (rows.position > 0)[:, None]
    torch.testing.assert_close(result, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_switches_off_leave_what_they_would_read_alone(backend: str) -> None:
    """With noise off the seed does not matter; without accumulation ``c`` does not."""
    plus = torch.randn(3, 16)
    first = langevin_step(
        torch.full((3, 16), torch.inf), plus, rows=rows_of(3), g=1.0, accumulate=False, seed=1, backend=backend
    )
    second = langevin_step(torch.zeros(3, 16), plus, rows=rows_of(3), g=1.0, seed=2, backend=backend)
    assert torch.equal(first, second)


@triton.jit
def offset_kernel(p_out, i_row, s_row):
    tl.store(p_out, row_offset(i_row + tl.program_id(0), s_row))


def test_row_offsets_pass_two_to_the_31() -> None:
    out = torch.zeros(1, dtype=torch.int64)
    for i_row, s_row in [(2**20, 2**12), (2**31 - 1, 2**13), (3, 2**33)]:
        offset_kernel[(1,)](out, i_row, s_row)
        assert out.item() == i_row * s_row


class Launch:
    """Stands in for the kernel and keeps what it is launched with."""

    def __getitem__(self, grid: tuple[int, int]) -> Callable[..., None]:
        self.grid = grid
        return self.keep

    def keep(self, *args: Any, **switches: Any) -> None:
        self.arguments = {**dict(zip(langevin_kernel.arg_names, args, strict=False)), **switches}


@pytest.mark.parametrize(("rows", "hidden", "bands"), [(2**20, 2048, 4), (2**28, 8, 2), (5, 4096, 1)])
def test_a_launch_past_two_to_the_31_elements(rows: int, hidden: int, bands: int, monkeypatch) -> None:
    """Tensors without memory: the grid covers every row and channel, and the last row's offset is its true one."""
    launch = Launch()
    monkeypatch.setattr(triton_impl, "langevin_kernel", launch)
    with torch.device("meta"):
        c = torch.empty(rows, bands, hidden)[:, bands - 1]
        plus = torch.empty(rows, hidden, dtype=torch.bfloat16)
        empty = {
            name: torch.empty(rows, dtype=dtype)
            for name, dtype in [("position", torch.int32), ("caption", torch.int64)]
        }
    triton_impl.langevin_step(c, plus, rows=TokenRows(**empty), g=1.0)
    found = launch.arguments
    assert launch.grid == (rows, -(-hidden // found["BLOCK"]))
    assert launch.grid[0] < 2**31
    assert launch.grid[1] < 2**16  # what CUDA allows
    assert found["s_c"] == found["s_out"] == bands * hidden
    assert found["s_plus"] == hidden
    out = torch.zeros(1, dtype=torch.int64)
    for stride in ("s_c", "s_plus"):
        offset_kernel[(1,)](out, launch.grid[0] - 1, found[stride])
        assert out.item() == (rows - 1) * found[stride]


@triton.jit
def sin_cos_kernel(p_angle, p_sin, p_cos, BLOCK: tl.constexpr):
    o_angle = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    b_sin, b_cos = sin_cos(tl.load(p_angle + o_angle))
    tl.store(p_sin + o_angle, b_sin)
    tl.store(p_cos + o_angle, b_cos)


def test_sine_and_cosine_of_the_kernel_at_every_quarter_turn() -> None:
    """65,536 of the 2^24 angles that noise has, and all those beside a multiple of an eighth of a turn."""
    words = [torch.arange(0, 1 << 24, 1 << 8) + 77, *(eighth * (1 << 21) + torch.arange(-4, 4) for eighth in range(9))]
    angle = torch.cat(words).clamp(0, (1 << 24) - 1).to(torch.float32) * (2.0**-24 * 2.0 * math.pi)
    angle = torch.nn.functional.pad(angle, (0, -len(angle) % 4096))
    found = {function: torch.empty_like(angle) for function in (torch.sin, torch.cos)}
    sin_cos_kernel[(len(angle) // 4096,)](angle, *found.values(), BLOCK=4096)
    for function, values in found.items():
        torch.testing.assert_close(values.double(), function(angle.double()), rtol=0, atol=2.0**-23)


@pytest.mark.process
@pytest.mark.parametrize("device", [pytest.param("cuda", marks=pytest.mark.gpu), "cpu"])
def test_the_kernel_in_a_process_of_its_own_is_the_reference(device: str, tmp_path) -> None:
    """On a GPU compiled, every dtype, the noise and all switches; on a CPU the same comparison, interpreted."""
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    env = {**os.environ, "TRITON_INTERPRET": "1", "TRITON_CACHE_DIR": str(tmp_path)}
    if device == "cuda":
        del env["TRITON_INTERPRET"]
    command = [sys.executable, "-m", "tests.kernels.compare", device]
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(f"noise {device} {'compiled' if device == 'cuda' else 'interpreted'}\n")


@pytest.mark.parametrize("h", [0.0, 0.5])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_reference_holds_less_than_one_output_of_a_block(dtype: torch.dtype, h: float) -> None:
    """Temporaries are of one size whatever the rows: all that are alive at once take less than a block's output."""
    peaks = []
    for count in (1024, 2048):
        c, plus, minus = torch.zeros(count, 1024), *(torch.zeros(count + 1, 1024, dtype=dtype) for _ in range(2))
        rows = rows_of(count, source=torch.arange(1, count + 1, dtype=torch.int32), padding=(1, 700))
        with Allocations() as allocations:
            reference.langevin_step(c, plus, None, minus, rows=rows, g=1.0, h=h)
        peaks.append(allocations.peak)
        assert allocations.largest <= plus.nbytes
    assert 0 < peaks[0] <= peaks[1] < plus.nbytes
    assert peaks[1] - peaks[0] < 1024 * 2  # a flag a row


@pytest.mark.process
def test_the_reference_needs_no_triton() -> None:
    code = "import sys, kernels.langevin; sys.exit('triton' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


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
    """At the ends of every index: a negative seed, the last block, extreme captions, the last token."""
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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"c": torch.zeros(3, 16, dtype=torch.bfloat16)}, "float32 or float64"),
        ({"c": torch.zeros(2, 16)}, "rows describe 3 rows, c has 2"),
        ({"plus": torch.zeros(3, 15)}, "plus must be"),
        ({"plus": torch.zeros(3, 16, dtype=torch.int32)}, "floating dtype"),
        ({"also": torch.zeros(4, 16)}, "also has 4 rows"),
        ({"minus": torch.zeros(16, 3).T}, "channels side by side"),
        ({"out": torch.zeros(3, 8)}, "out must be"),
        ({"h": -1.0}, "h must not be negative"),
        ({"block": 5000}, "out of range"),
        ({"seed": 2**63}, "out of range"),
    ],
)
def test_wrong_arguments_are_refused(change, message) -> None:
    arguments = {"c": torch.zeros(3, 16), "plus": torch.zeros(3, 16), "rows": rows_of(3), "g": 1.0, **change}
    with pytest.raises(ValueError, match=message):
        langevin_step(arguments.pop("c"), arguments.pop("plus"), **arguments)


def test_float64_is_summed_in_float64_and_not_by_triton() -> None:
    c, plus = torch.zeros(3, 16, dtype=torch.float64), torch.rand(3, 16, dtype=torch.float64)
    assert torch.equal(langevin_step(c, plus, rows=rows_of(3), g=1.0)[1:], plus[1:])
    with pytest.raises(ValueError, match="keeps c in float32"):
        langevin_step(c, plus, rows=rows_of(3), g=1.0, backend="triton")
