"""The Langevin step in plain PyTorch: the truth that the Triton kernel is tested against, and the path on a CPU."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

WORD = 0xFFFFFFFF
ROUND_A, ROUND_B = 0xD2511F53, 0xCD9E8D57  # Philox 4x32's multipliers
KEY_A, KEY_B = 0x9E3779B9, 0xBB67AE85  # Philox's key schedule
ROUNDS = 10
GROUP_BITS = 20  # low bits of the 32-bit word (block, group of four channels)
CHUNK_ELEMENTS = 1 << 17  # elements at a time, whose temporaries fit a core's cache


@dataclass(frozen=True, kw_only=True)
class TokenRows:
    """The token and the caption that each row of an encoding belongs to.

    position: int32 (row,). The token's index in its caption; negative: padding, a row that is left as it is.
    caption: int64 (row,). 64 bits of the caption's hash, for the noise.
    source: int32 (row,) or None. The row of the block's outputs that belongs to this row of the encoding, where the
        encoding is ragged and the outputs are padded; None: the same row.
    """

    position: Tensor
    caption: Tensor
    source: Tensor | None = None

    def __len__(self) -> int:
        return self.position.shape[0]

    def __getitem__(self, chunk: slice) -> TokenRows:
        source = None if self.source is None else self.source[chunk]
        return TokenRows(position=self.position[chunk], caption=self.caption[chunk], source=source)

    @property
    def device(self) -> torch.device:
        return self.position.device


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
    """Return ``c <- c + g (plus + also - minus) + sqrt(2 h) eps``, the inner line of Algorithm 1 (arXiv 2502.04412).

    The score of a caption's first token is exactly zero, for it has no context; rounding is not let in. (It is
    multiplied by zero, so that a NaN stays one.)

    Args:
        c: float32 or float64 (row, hidden), one band of the encoding, updated in place unless ``out`` is given.
        plus, also, minus: (row of the outputs, hidden), any floating dtype: the block's outputs whose sum is the score.
        rows: what each row of ``c`` is.
        g, h: the step size and the noise level of this block.
        seed, block: with the row's caption and position and the channel, all that the noise depends on.
        accumulate: False writes the step without reading ``c``, which may then hold anything.
        out: (row, hidden) of any floating dtype to write to in place of ``c``.

    Returns:
        ``c``, or ``out`` where given.
    """
    out = c if out is None else out
    padded = bool((rows.position < 0).any())
    count = max(1, CHUNK_ELEMENTS // max(1, c.shape[1]))
    for o_row in range(0, len(rows), count):
        chunk = slice(o_row, o_row + count)
        part = rows[chunk]
        score = _score(plus, also, minus, part, chunk, c.dtype)
        weight = (part.position > 0).to(c.dtype).mul_(g)[:, None]  # (r, 1)
        step = torch.addcmul(c[chunk], score, weight, out=score) if accumulate else score.mul_(weight)
        if h > 0.0:
            step.add_(gaussian(part, c.shape[1], seed, block), alpha=math.sqrt(2.0 * h))
        if padded:
            keep = part.position >= 0
            out[chunk][keep] = step[keep].to(out.dtype)
        else:
            out[chunk] = step
    return out


def _score(
    plus: Tensor, also: Tensor | None, minus: Tensor | None, rows: TokenRows, chunk: slice, dtype: torch.dtype
) -> Tensor:
    """Return ``plus + also - minus`` of some rows, summed in the encoding's dtype: a new tensor."""

    def on_rows(term: Tensor) -> Tensor:
        return term[chunk] if rows.source is None else term.index_select(0, rows.source)

    score = on_rows(plus).to(dtype, copy=True)
    if also is not None:
        score += on_rows(also)
    if minus is not None:
        score -= on_rows(minus)
    return score


def gaussian(rows: TokenRows, hidden: int, seed: int, block: int) -> Tensor:
    """Return standard normal noise, a pure function of (seed, caption, block, token, channel): float32 (row, hidden).

    Four channels share a call of Philox: its counter is (token, block and channel group, caption), its key the seed.
    Two Box-Muller pairs make its four words normal.
    """
    group = torch.arange((hidden + 3) // 4, dtype=torch.int64, device=rows.device)[None, :]  # (1, n)
    token = rows.position.to(torch.int64)[:, None].expand(-1, group.shape[1])  # (r, n)
    caption = rows.caption[:, None].expand_as(token)
    counter = (
        token & WORD,
        ((block << GROUP_BITS) | group).expand_as(token),
        caption & WORD,
        (caption >> 32) & WORD,
    )
    words = philox(counter, (seed & WORD, (seed >> 32) & WORD))
    normals = (*_box_muller(words[0], words[1]), *_box_muller(words[2], words[3]))
    return torch.stack(normals, dim=-1).flatten(1)[:, :hidden]


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int, int]) -> tuple[Tensor, ...]:
    """Compute Philox 4x32-10 (Salmon et al., 2011) on int64 tensors that hold 32-bit words; return such tensors."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        a, b = c0 * ROUND_A, c2 * ROUND_B  # 64-bit products, whose sign bit counts as a plain bit
        c0, c1 = ((b >> 32) & WORD) ^ c1 ^ k0, b & WORD
        c2, c3 = ((a >> 32) & WORD) ^ c3 ^ k1, a & WORD
        k0, k1 = (k0 + KEY_A) & WORD, (k1 + KEY_B) & WORD
    return c0, c1, c2, c3


def _box_muller(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Return two independent standard normals of two 32-bit words, 24 bits of each (exact in float32)."""
    uniform = ((first >> 8) + 1).to(torch.float32) * 2.0**-24  # (0, 1]
    angle = (second >> 8).to(torch.float32) * (2.0**-24 * 2.0 * math.pi)
    radius = torch.sqrt(-2.0 * torch.log(uniform))
    return radius * torch.cos(angle), radius * torch.sin(angle)
