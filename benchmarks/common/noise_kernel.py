"""The kernel's noise alone, written to memory, up to each of its stages."""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from kernels.langevin.triton_impl import MAX_BLOCK, box_muller, philox_round, warps

STAGES = ("channel index", "Philox", "Philox and Box-Muller")


@triton.jit
def noise_kernel(p_out, hidden, STAGE: tl.constexpr, BLOCK: tl.constexpr):
    """Write one row, BLOCK channels a program, four of them from each call of Philox."""
    i_row, i_block = tl.program_id(0), tl.program_id(1)
    o_group = i_block * (BLOCK // 4) + tl.arange(0, BLOCK // 4)
    c0 = o_group.to(tl.uint32)
    c1, c2, c3 = c0 * 0 + i_row.to(tl.uint32), c0 * 0 + 1, c0 * 0 + 2
    if STAGE > 0:
        k0, k1 = c0 * 0 + 3, c0 * 0 + 4
        for _ in tl.static_range(10):
            c0, c1, c2, c3 = philox_round(c0, c1, c2, c3, k0, k1)
            k0 += 0x9E3779B9
            k1 += 0xBB67AE85
    n0, n1, n2, n3 = c0.to(tl.float32), c1.to(tl.float32), c2.to(tl.float32), c3.to(tl.float32)
    if STAGE > 1:
        n0, n1 = box_muller(c0, c1)
        n2, n3 = box_muller(c2, c3)
    even = tl.reshape(tl.join(n0, n2), (BLOCK // 2,))
    odd = tl.reshape(tl.join(n1, n3), (BLOCK // 2,))
    o_col = i_block * BLOCK + tl.arange(0, BLOCK)
    p_row = p_out + i_row.to(tl.int64) * hidden + o_col
    tl.store(p_row, tl.reshape(tl.join(even, odd), (BLOCK,)), mask=o_col < hidden)


def write_noise(out: Tensor, stage: int) -> None:
    """Fill ``out`` ``(row, hidden)``, float32, with what comes out of a stage of the noise."""
    width = max(16, min(MAX_BLOCK, triton.next_power_of_2(out.shape[1])))
    grid = (out.shape[0], triton.cdiv(out.shape[1], width))
    noise_kernel[grid](out, out.shape[1], STAGE=stage, BLOCK=width, num_warps=warps(width, 32))
