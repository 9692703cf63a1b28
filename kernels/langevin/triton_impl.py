"""The Langevin step as one Triton kernel: every operand is read once and the encoding written once."""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.langevin.reference import TokenRows

MAX_BLOCK = 2048  # channels a program; wider rows take several programs
LANE_CHANNELS = 8  # channels of a lane: 128 bits of 16-bit numbers
LANES = 64 if torch.version.hip else 32  # lanes of a warp


@triton.jit
def row_offset(i_row, s_row):
    """Return the element offset of a row, in int64: encodings pass 2^31 elements."""
    return i_row.to(tl.int64) * s_row


@triton.jit
def philox_round(c0, c1, c2, c3, k0, k1):
    """Compute one round of Philox 4x32 on blocks of uint32 words."""
    a: tl.constexpr = 0xD2511F53
    b: tl.constexpr = 0xCD9E8D57
    product_a = c0.to(tl.uint64) * a
    product_b = c2.to(tl.uint64) * b
    high_a = (product_a >> 32).to(tl.uint32)
    high_b = (product_b >> 32).to(tl.uint32)
    return high_b ^ c1 ^ k0, product_b.to(tl.uint32), high_a ^ c3 ^ k1, product_a.to(tl.uint32)


@triton.jit
def box_muller(b_first, b_second):
    """Return two blocks of standard normals from two blocks of uint32 words, 24 bits of each."""
    uniform = ((b_first >> 8) + 1).to(tl.float32) * 5.9604644775390625e-08  # 2^-24: (0, 1]
    angle = (b_second >> 8).to(tl.float32) * 3.7450702829239286e-07  # 2 pi 2^-24
    radius = tl.sqrt(-2.0 * tl.log(uniform))
    b_sin, b_cos = sin_cos(angle)
    return radius * b_cos, radius * b_sin


@triton.jit
def sin_cos(b_angle):
    """Return sine and cosine of a float32 block of angles in [0, 2 pi], within 2^-23 (absolute).

    `tl.sin` reduces any angle, by a table in memory and a stack; this one subtracts quarter turns in two parts (Cody
    and Waite, 1980) and takes Cephes' polynomials between -pi/4 and pi/4.
    """
    quarter = (b_angle * 0.6366197723675814 + 0.5).to(tl.int32)  # 2 / pi: 0 to 4
    turned = quarter.to(tl.float32)
    x = (b_angle - turned * 1.5707855224609375) - turned * 1.0804334124e-05  # the first product has 19 bits: exact
    x2 = x * x
    b_sin = x + x * x2 * (-1.6666654611e-1 + x2 * (8.3321608736e-3 - x2 * 1.9515295891e-4))
    b_cos = 1.0 - 0.5 * x2 + x2 * x2 * (4.166664568298827e-2 + x2 * (-1.388731625493765e-3 + x2 * 2.443315711809948e-5))
    odd = (quarter & 1) == 1
    low, high = tl.where(odd, b_cos, b_sin), tl.where(odd, b_sin, b_cos)
    return tl.where((quarter & 2) == 2, -low, low), tl.where(((quarter + 1) & 2) == 2, -high, high)


@triton.jit
def gaussian_block(seed, caption, token, block, o_group, BLOCK: tl.constexpr, GROUP_BITS: tl.constexpr):
    """Return the noise of BLOCK channels of one row; o_group: the indices of its BLOCK / 4 groups of four channels."""
    zero = (o_group * 0).to(tl.uint32)
    c0 = zero + token.to(tl.uint32)
    c1 = o_group.to(tl.uint32) | (zero + (block.to(tl.uint32) << GROUP_BITS))
    c2 = zero + (caption & 0xFFFFFFFF).to(tl.uint32)
    c3 = zero + ((caption >> 32) & 0xFFFFFFFF).to(tl.uint32)
    k0 = zero + (seed & 0xFFFFFFFF).to(tl.uint32)
    k1 = zero + ((seed >> 32) & 0xFFFFFFFF).to(tl.uint32)
    for _ in tl.static_range(10):
        c0, c1, c2, c3 = philox_round(c0, c1, c2, c3, k0, k1)
        k0 += 0x9E3779B9
        k1 += 0xBB67AE85
    n0, n1 = box_muller(c0, c1)
    n2, n3 = box_muller(c2, c3)
    even = tl.reshape(tl.join(n0, n2), (BLOCK // 2,))
    odd = tl.reshape(tl.join(n1, n3), (BLOCK // 2,))
    return tl.reshape(tl.join(even, odd), (BLOCK,))


@triton.jit(do_not_specialize=["g", "sigma", "seed", "block"])
def langevin_kernel(
    p_c,
    p_out,
    p_plus,
    p_also,
    p_minus,
    p_source,
    p_position,
    p_caption,
    g,
    sigma,
    seed,
    block,
    hidden,
    s_c,
    s_out,
    s_plus,
    s_also,
    s_minus,
    BLOCK: tl.constexpr,
    GROUP_BITS: tl.constexpr,
    HAS_ALSO: tl.constexpr,
    HAS_MINUS: tl.constexpr,
    HAS_SOURCE: tl.constexpr,
    HAS_NOISE: tl.constexpr,
    ACCUMULATE: tl.constexpr,
):
    """Update BLOCK channels of one row. What a switch leaves out costs neither a read nor an instruction."""
    i_row = tl.program_id(0)
    i_block = tl.program_id(1)
    position = tl.load(p_position + i_row)
    if position >= 0:
        o_col = i_block * BLOCK + tl.arange(0, BLOCK)
        m_col = o_col < hidden
        i_source = i_row
        if HAS_SOURCE:
            i_source = tl.load(p_source + i_row)
        b_score = tl.load(p_plus + row_offset(i_source, s_plus) + o_col, mask=m_col, other=0.0).to(tl.float32)
        if HAS_ALSO:
            b_score += tl.load(p_also + row_offset(i_source, s_also) + o_col, mask=m_col, other=0.0).to(tl.float32)
        if HAS_MINUS:
            b_score -= tl.load(p_minus + row_offset(i_source, s_minus) + o_col, mask=m_col, other=0.0).to(tl.float32)
        b_step = b_score * tl.where(position == 0, 0.0, 1.0) * g  # multiplied by zero, so that a NaN stays one
        if HAS_NOISE:
            o_group = i_block * (BLOCK // 4) + tl.arange(0, BLOCK // 4)
            caption = tl.load(p_caption + i_row)
            b_noise = gaussian_block(seed.to(tl.int64), caption, position, block, o_group, BLOCK, GROUP_BITS)
            b_step += sigma * b_noise
        if ACCUMULATE:
            b_step += tl.load(p_c + row_offset(i_row, s_c) + o_col, mask=m_col, other=0.0)
        p_row = p_out + row_offset(i_row, s_out) + o_col
        tl.store(p_row, b_step.to(p_out.dtype.element_ty), mask=m_col)


def langevin_step(
    c: Tensor,
    plus: Tensor,
    also: Tensor | None = None,
    minus: Tensor | None = None,
    *,
    rows: TokenRows,
    g: float,
    h: float = 0.0,
    seed: int = 0,
    block: int = 0,
    accumulate: bool = True,
    out: Tensor | None = None,
) -> Tensor:
    """Return the launcher: :func:`kernels.langevin.reference.langevin_step` on a GPU, ``c`` in float32."""
    out = c if out is None else out
    hidden = c.shape[1]
    if len(rows) == 0 or hidden == 0:
        return out
    width = max(16, min(MAX_BLOCK, triton.next_power_of_2(hidden)))
    absent = c  # a pointer that is never read, as its switch is off
    with torch.cuda.device_of(c):
        langevin_kernel[(len(rows), triton.cdiv(hidden, width))](
            c,
            out,
            plus,
            absent if also is None else also,
            absent if minus is None else minus,
            rows.position if rows.source is None else rows.source,
            rows.position,
            rows.caption,
            float(g),
            math.sqrt(2.0 * h),
            seed,
            block,
            hidden,
            c.stride(0),
            out.stride(0),
            plus.stride(0),
            0 if also is None else also.stride(0),
            0 if minus is None else minus.stride(0),
            BLOCK=width,
            GROUP_BITS=20,
            HAS_ALSO=also is not None,
            HAS_MINUS=minus is not None,
            HAS_SOURCE=rows.source is not None,
            HAS_NOISE=h > 0.0,
            ACCUMULATE=accumulate,
            num_warps=warps(width, LANES),
        )
    return out


def warps(width: int, lanes: int) -> int:
    """Return the warps of a program of so many channels, so that each lane reads 128 bits of an operand at once."""
    return max(1, width // (LANE_CHANNELS * lanes))
