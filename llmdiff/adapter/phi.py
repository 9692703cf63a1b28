"""``phi``: from the LLM's encodings to the width that a U-Net's cross-attention reads."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmdiff.adapter.config import AdapterConfig
from llmdiff.adapter.diffusers_internals import Float32Buffers


class Phi(nn.Module):
    """``phi``: sum the depth bands with ``g``, normalise (LLMs have outlier channels), project to the U-Net's width.

    With `band_gates` each band is normalised and projected by itself, for the layers' gates to mix; there is no ``g``,
    which the norm would take out again.
    """

    def __init__(self, config: AdapterConfig) -> None:
        super().__init__()
        self.norm = Float32LayerNorm(config.encoding_dim)
        self.linear = nn.Linear(config.encoding_dim, config.context_dim)
        self.apart = config.band_gates
        if config.bands > 1 and not self.apart:
            self.g = nn.Parameter(torch.ones(config.bands), requires_grad=config.learn_bands)
        self.standardisation = Standardisation(config.bands, config.encoding_dim) if config.standardise else None

    def forward(self, encodings: Tensor, mask: Tensor) -> Tensor:
        """Project encodings; padding leaves as zeros.

        Args:
            encodings: ``(batch, [band,] token, hidden)``, any float dtype.
            mask: ``(batch, token)`` bool, False for padding.

        Returns:
            ``(batch, token, context)``; ``(batch, band, token, context)`` with `band_gates`. In the dtype of `linear`.
        """
        padding = ~mask.unsqueeze(-1)
        encodings = encodings.float()
        if self.standardisation is not None:
            encodings = self.standardisation(encodings)
        if self.apart:
            padding = padding.unsqueeze(1)
        elif encodings.ndim == 4:
            encodings = encodings.masked_fill(padding.unsqueeze(1), 0)
            encodings = torch.einsum("bktd,k->btd", encodings, self.g.float())
        # Masked before as well as after: a NaN in the padding would reach the gradient of `linear`.
        normed = self.norm(encodings.masked_fill(padding, 0))
        return self.linear(normed.to(self.linear.weight.dtype)).masked_fill(padding, 0)


class Standardisation(Float32Buffers):
    """Standardise encodings channel by channel, by statistics ``(band, hidden)`` float32 that are not trained.

    Without statistics it changes nothing.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, bands: int, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(bands, width))
        self.register_buffer("std", torch.ones(bands, width))

    @torch.no_grad()
    def set(self, mean: Tensor, std: Tensor) -> None:
        """Take statistics ``(band, hidden)``."""
        self.mean.copy_(mean)
        self.std.copy_(std)

    def forward(self, encodings: Tensor) -> Tensor:
        """Return ``(batch, [band,] token, hidden)`` float32 with mean 0 and variance 1."""
        return (encodings - self.mean.unsqueeze(1)) / self.std.unsqueeze(1)


class Float32LayerNorm(nn.LayerNorm):
    """LayerNorm in float32 whatever the dtype of its weights: the outliers it is there for don't fit in less."""

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x.float(), self.normalized_shape, self.weight.float(), self.bias.float(), self.eps)
