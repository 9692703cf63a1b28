"""The refiner: small transformer blocks over the tokens of a context, in which every token sees every other.

In a causal LLM a token's encoding knows nothing of the tokens after it; a refiner counters that (UniFusion, arXiv
2510.12789).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from llmdiff.adapter.attention import MASKED, LayerShape, MultiHeadAttention
from llmdiff.adapter.phi import Float32LayerNorm

HEAD_WIDTH, WIDENING = 64, 4  # channels of a head, and of the MLP's hidden layer for each of its input


class Refiner(nn.Module):
    """Pre-norm blocks with torch's own first weights."""

    def __init__(self, width: int, blocks: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(RefinerBlock(width) for _ in range(blocks))

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Refine tokens ``(batch, [band,] token, channel)``, band by band; return the same shape and dtype.

        `mask` ``(batch, token)`` is bool, False for padding, which no token sees and which leaves as zeros.
        """
        bands = tokens.shape[1] if tokens.ndim == 4 else 1
        padding = ~mask.repeat_interleave(bands, dim=0)  # (b k, t)
        x = tokens.flatten(0, -3)  # (b k, t, d)
        bias = (padding * MASKED).to(x.dtype).unsqueeze(1)  # (b k, 1, t)
        for block in self.blocks:
            x = block(x, bias)
        return x.masked_fill(padding.unsqueeze(-1), 0).reshape(tokens.shape)


class RefinerBlock(nn.Module):
    """Attention and an MLP, each on normalised tokens and added to them."""

    def __init__(self, width: int, widening: int = WIDENING) -> None:
        super().__init__()
        self.attention_norm = Float32LayerNorm(width)
        self.attention = MultiHeadAttention(
            LayerShape(query_dim=width, inner_dim=width, context_dim=width, out_dim=width, heads=heads_of(width))
        )
        self.mlp_norm = Float32LayerNorm(width)
        self.mlp_in = nn.Linear(width, widening * width)
        self.mlp_out = nn.Linear(widening * width, width)

    def forward(self, x: Tensor, bias: Tensor, context: Tensor | None = None) -> Tensor:
        """Return tokens ``(batch, token, channel)`` after attention to a `context` of that form, or else to themselves.

        `bias` ``(batch, 1, token)`` hides the padding of what it attends to.
        """
        normed = self.attention_norm(x).to(x.dtype)
        x = x + self.attention(normed, normed if context is None else context, bias)
        return x + self.mlp_out(F.gelu(self.mlp_in(self.mlp_norm(x).to(x.dtype))))


def heads_of(width: int) -> int:
    """Return the number of heads that divides a width into about `HEAD_WIDTH` channels each, not fewer."""
    return next(heads for heads in range(max(1, width // HEAD_WIDTH), 0, -1) if width % heads == 0)
