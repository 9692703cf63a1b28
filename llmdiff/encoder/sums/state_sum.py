"""Hidden states as an encoding: chosen ones side by side, or their mean."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import layer_norm

from kernels.langevin import TokenRows
from llmdiff.encoder.llm.scores import BlockScore
from llmdiff.encoder.sums.running_sum import RunningSum


class StateSum(RunningSum):
    """Weighted sums of hidden states.

    Args:
        rows, bands, hidden, dtype: see `RunningSum`.
        states: band and weight of each state that is taken: 0 is the embedding, k block k's output, T + 1 the final
            norm's.
        normalise: layer-normalise each state first, over channels, without learned weights.
    """

    def __init__(
        self,
        rows: TokenRows,
        states: Mapping[int, tuple[int, float]],
        *,
        normalise: bool,
        bands: int,
        hidden: int,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(rows, bands=bands, hidden=hidden, dtype=dtype)
        self.states, self.normalise = states, normalise
        self.seen = 0

    def start(self, x: Tensor) -> None:
        self._take(0, x)

    def fold(self, score: BlockScore) -> None:
        self.seen = score.index + 1
        self._take(self.seen, score.output)

    def end(self, x: Tensor) -> None:
        self._take(self.seen + 1, x)

    def _take(self, number: int, x: Tensor) -> None:
        """Add a hidden state (batch, token, hidden), if it is one that is summed."""
        if number not in self.states:
            return
        band, weight = self.states[number]
        rows = self._on_rows(x.flatten(0, 1)).to(self.c.dtype)
        if self.normalise:
            rows = layer_norm(rows, rows.shape[-1:])
        begun, self.begun[band] = self.begun[band], True
        if begun:
            self.c[:, band].add_(rows, alpha=weight)
        else:
            torch.mul(rows, weight, out=self.c[:, band])
