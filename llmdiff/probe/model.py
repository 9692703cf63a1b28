"""A small reader of encodings: an adapter's own first layers, and one learned query for each question."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from llmdiff.adapter.attention import MASKED, LayerShape, MultiHeadAttention
from llmdiff.adapter.config import AdapterConfig
from llmdiff.adapter.phi import Phi
from llmdiff.adapter.refiner import Refiner
from llmdiff.probe.captions import CHOICES

WIDTH, HEADS = 128, 4


class Probe(nn.Module):
    """Answers the questions about captions from their encodings.

    It reads as an adapter does: channels standardised, `phi`, and as many blocks of its refiner. Then each question's
    query attends to the tokens once, and a linear layer chooses the answer.

    Args:
        encoding_dim: width of an encoding.
        bands: depth bands in an encoding.
        refiner: blocks of the refiner. Without any, a token can only tell what it knows by itself.
    """

    def __init__(self, encoding_dim: int, bands: int = 1, refiner: int = 0) -> None:
        super().__init__()
        self.phi = Phi(AdapterConfig(encoding_dim=encoding_dim, context_dim=WIDTH, bands=bands, standardise=True))
        self.refiner = Refiner(WIDTH, refiner) if refiner else None
        self.queries = nn.Parameter(0.1 * torch.randn(len(CHOICES), WIDTH))
        shape = LayerShape(query_dim=WIDTH, inner_dim=WIDTH, context_dim=WIDTH, out_dim=WIDTH, heads=HEADS)
        self.attention = MultiHeadAttention(shape)
        self.answers = nn.ModuleList(nn.Linear(WIDTH, len(choices)) for choices in CHOICES)

    def standardise(self, mean: Tensor, std: Tensor) -> None:
        """Take the statistics ``(band, hidden)`` of the encodings that it learns on."""
        assert self.phi.standardisation is not None
        self.phi.standardisation.set(mean, std)

    def forward(self, encodings: Tensor, mask: Tensor) -> list[Tensor]:
        """Return logits ``(caption, choice)`` for each question.

        Args:
            encodings: ``(caption, [band,] token, hidden)``, any float dtype.
            mask: ``(caption, token)`` bool, False for padding.
        """
        tokens = self.phi(encodings, mask)  # (b, t, d)
        if self.refiner is not None:
            tokens = self.refiner(tokens, mask)
        bias = (~mask * MASKED).unsqueeze(1)  # (b, 1, t)
        read = self.attention(self.queries.expand(len(tokens), -1, -1), tokens, bias)  # (b, question, d)
        return [answer(read[:, i]) for i, answer in enumerate(self.answers)]
