"""The Langevin step: PyTorch against a formula written out, Triton (interpreted) against PyTorch, and the noise."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys

import pytest
import torch
import triton
import triton.language as tl

from kernels.langevin import Rows, gaussian, langevin_step
from kernels.langevin.reference import philox
from kernels.langevin.triton_impl import row_offset

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SHAPES = [(1, 1), (1, 16), (5, 41), (7, 401), (3, 1271), (2, 2049)]
TERMS = [(False, False), (True, False), (False, True), (True, True)]


def rows_of(count: int, *, source: torch.Tensor | None = None, padding: tuple[int, ...] = ()) -> Rows:
    """Rows of captions of three tokens each."""
    position = torch.arange(count, dtype=torch.int32) % 3
    position[list(padding)] = -1
    caption = (torch.arange(count) // 3 + 7) * -(2**40) - 3
    return Rows(position=position, caption=caption, source=source)


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
    for (with_also, with_minus), h in itertools.product(TERMS, (0.0, 0.7)):
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
    rows = Rows(position=torch.ones(4, dtype=torch.int32), caption=torch.zeros(4, dtype=torch.int64))
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


COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from kernels.langevin.triton_impl import langevin_kernel

def kind(name):
    pointers = {"p_c": "*fp32", "p_out": "*bf16", "p_source": "*i32", "p_position": "*i32", "p_caption": "*i64"}
    if name.startswith("p_"):
        return pointers.get(name, "*bf16")
    return "constexpr" if name.isupper() else {"g": "fp32", "sigma": "fp32", "seed": "i64"}.get(name, "i32")

signature = {name: kind(name) for name in langevin_kernel.arg_names}
for on in (False, True):
    switches = dict.fromkeys(["HAS_ALSO", "HAS_MINUS", "HAS_SOURCE", "HAS_NOISE", "ACCUMULATE"], on)
    source = ASTSource(langevin_kernel, signature, constexprs={"BLOCK": 2048, "GROUP_BITS": 20, **switches})
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 8})
    print(compiled.asm["ptx"].count("mul.wide.u32"), len(compiled.asm["cubin"]))
"""


def test_the_kernel_compiles_for_a_gpu_and_off_switches_cost_nothing(tmp_path) -> None:
    """Compiled to machine code for an H100, which needs no GPU; without noise no Philox multiplication is left."""
    env = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path)}
    env.pop("TRITON_INTERPRET", None)
    done = subprocess.run([sys.executable, "-c", COMPILE], capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr
    (products_off, size_off), (products_on, size_on) = (map(int, line.split()) for line in done.stdout.splitlines())
    assert products_off < 10 <= 20 <= products_on
    assert size_off < size_on / 2


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
    rows = Rows(position=torch.arange(tokens, dtype=torch.int32), caption=torch.full((tokens,), caption))
    return gaussian(rows, hidden, seed, block)


def test_noise_is_standard_normal() -> None:
    z = noise(tokens=512, hidden=2048).flatten().double()  # 2^20: standard errors 0.001, 0.0014, 0.0024, 0.0048
    assert abs(z.mean()) < 0.004
    assert abs(z.var() - 1) < 0.006
    assert abs((z**3).mean()) < 0.01
    assert abs((z**4).mean() - 3) < 0.02
    assert 4.5 < z.abs().max() < 5.8


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


def test_noise_is_the_same_however_the_rows_are_cut() -> None:
    whole = noise(tokens=16, hidden=37)
    rows = Rows(position=torch.tensor([9, 3], dtype=torch.int32), caption=torch.tensor([1, 1]))
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
