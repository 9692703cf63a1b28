"""The Triton kernel alone: offsets, launches, sine and cosine, and a process that compiles it."""

from __future__ import annotations

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

from kernels.langevin import TokenRows, triton_impl
from kernels.langevin.triton_impl import langevin_kernel, row_offset, sin_cos

ROOT = Path(__file__).parents[2]


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
    """It runs compiled on a GPU, with every dtype, the noise and all switches; interpreted on a CPU."""
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    env = {**os.environ, "TRITON_INTERPRET": "1", "TRITON_CACHE_DIR": str(tmp_path)}
    if device == "cuda":
        del env["TRITON_INTERPRET"]
    command = [sys.executable, "-m", "tests.kernels.compare", device]
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(f"noise {device} {'compiled' if device == 'cuda' else 'interpreted'}\n")
