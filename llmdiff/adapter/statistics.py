"""Mean and standard deviation of encodings, channel by channel: what `adapter.standardise` divides by."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

LEAST = 2.0**-8
"""Least share of the median channel's standard deviation that is divided by: a bfloat16's relative precision.

Channels of an LLM vary far more: by 0.12 of the median's at least with SmolLM2-135M-Instruct, by the readings tried.
"""


def channel_statistics(encodings: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of each band's channels over all tokens, ``(band, hidden)`` float32 each.

    A channel that is the same everywhere has 1 for its standard deviation, and one that varies less than `LEAST` of its
    band's median has that much: else a token that is unlike those measured could come to any size. Encodings
    ``([band,] token, hidden)`` that are not finite are left out; training leaves out their steps too.

    Raises:
        ValueError: none is left.
    """
    tokens, origin, total, squares = 0, None, torch.zeros(()), torch.zeros(())
    for encoding in encodings:
        banded = encoding.double().reshape(-1, *encoding.shape[-2:])  # (k, t, d)
        if not banded.isfinite().all():
            continue
        if origin is None:
            origin = banded[:, :1]  # (k, 1, d); seen from one of its values, a constant channel has exactly none
        from_origin = banded - origin
        tokens += from_origin.shape[1]
        total = total + from_origin.sum(1)
        squares = squares + from_origin.square().sum(1)
    if origin is None:
        raise ValueError("adapter.standardise: expected encodings with finite numbers, found none in the store")
    mean = total / tokens
    std = (squares / tokens - mean.square()).clamp(min=0).sqrt().float()
    least = LEAST * std.median(dim=-1, keepdim=True).values
    return (origin.squeeze(1) + mean).float(), torch.where(std == 0, 1.0, std.maximum(least))
