"""Encodings of different lengths in one batch; and the empty caption's in place of some of them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def pad(encodings: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Encodings of one batch, padded with zeros on the right, and their mask ``(batch, token)`` bool."""
    lengths = torch.tensor([encoding.shape[-2] for encoding in encodings])
    longest = int(lengths.max())
    padded = [F.pad(encoding, (0, 0, 0, longest - encoding.shape[-2])) for encoding in encodings]
    return torch.stack(padded), torch.arange(longest) < lengths[:, None]


def replace(encodings: Tensor, mask: Tensor, null: Tensor, dropped: Tensor) -> tuple[Tensor, Tensor]:
    """Puts `null` ``([band,] token, hidden)`` into the `dropped` ``(batch,)`` rows, padding whichever is shorter."""
    length, null_length = mask.shape[1], null.shape[-2]
    longest = max(length, null_length)
    if longest > length:
        encodings = F.pad(encodings, (0, 0, 0, longest - length))
        mask = F.pad(mask, (0, longest - length))
    null = F.pad(null, (0, 0, 0, longest - null_length)).to(encodings.dtype)
    null_mask = torch.arange(longest, device=mask.device) < null_length
    rows = dropped.reshape(-1, *[1] * (encodings.ndim - 1))
    return torch.where(rows, null, encodings), torch.where(dropped[:, None], null_mask, mask)
