"""The Langevin step: PyTorch against a formula written out, and Triton (interpreted) against PyTorch."""

from __future__ import annotations

import itertools
import subprocess
import sys

import pytest
import torch

from kernels.langevin import TokenRows, gaussian, langevin_step, reference
from tests.examples import some
from tests.kernels.allocations import Allocations

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SHAPES = [(1, 1), (1, 16), (5, 41), (2, 401), (1, 1271), (2, 2049)]
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
@pytest.mark.parametrize("shape", some(SHAPES), ids=str)
def test_step_is_the_formula(backend: str, dtype: torch.dtype, shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    c = torch.randn(shape)
    terms = TERMS if dtype == torch.float32 else TERMS[2:]  # with noise and without; all are added in float32
    for (with_also, with_minus), h in zip(terms, itertools.cycle((0.0, 0.7)), strict=False):
        plus, also, minus = (torch.randn(shape).to(dtype) for _ in range(3))
        scores = (plus, also if with_also else None, minus if with_minus else None)
        settings = {"rows": rows_of(shape[0]), "g": 0.3, "h": h, "seed": 2**35 + 1, "block": 3}
        expected = written_out(c, *scores, **settings)
        result = langevin_step(c.clone(), *scores, **settings, backend=backend)
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
    """Without noise the seed does not matter; without accumulation ``c`` does not."""
    plus = torch.randn(3, 16)
    first = langevin_step(
        torch.full((3, 16), torch.inf), plus, rows=rows_of(3), g=1.0, accumulate=False, seed=1, backend=backend
    )
    second = langevin_step(torch.zeros(3, 16), plus, rows=rows_of(3), g=1.0, seed=2, backend=backend)
    assert torch.equal(first, second)


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
