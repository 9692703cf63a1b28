"""An encoding while the LLM runs: each block's contribution is added to it, and not kept."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from kernels.langevin import TokenRows
from llmdiff.encoder.llm.scores import BlockScore


class RunningSum:
    """The encoding ``c`` (row, band, hidden) of a batch. Rows are ragged: one a token, no padding.

    What it takes may lie on other devices: it is brought to that of the rows, where the sum is.

    Args:
        rows: the token that each row is.
        bands: sums that are kept apart.
        hidden: the LLM's width.
        dtype: float32, or float64 for an LLM in float64.
    """

    def __init__(self, rows: TokenRows, *, bands: int, hidden: int, dtype: torch.dtype = torch.float32) -> None:
        self.rows, self.bands = rows, bands
        self.c = torch.empty(len(rows), bands, hidden, dtype=dtype, device=rows.device)
        self.begun = [False] * bands
        """Which bands hold a sum so far; the others hold anything."""

    def start(self, x: Tensor) -> None:
        """Start from the first block's input, the embeddings (batch, token, hidden)."""

    def fold(self, score: BlockScore) -> None:
        """Add a block's contribution."""
        raise NotImplementedError

    def end(self, x: Tensor) -> None:
        """Add the final norm's output, the last hidden state (batch, token, hidden), where it is read."""

    def finite(self) -> Tensor:
        """Return whether a row has neither NaN nor infinity: bool (row,)."""
        return torch.isfinite(self.c).flatten(1).all(dim=1)

    def _on_rows(self, flat: Tensor) -> Tensor:
        """Return the rows (row, ...) of padded outputs (batch * token, ...), on the device of the sum."""
        here = flat.to(self.c.device)
        return here if self.rows.source is None else here.index_select(0, self.rows.source)


def ragged_rows(lengths: list[int], captions: list[int], device: torch.device) -> TokenRows:
    """Return the rows of a batch padded on the right to its longest caption.

    Args:
        lengths: tokens of each caption.
        captions: 64 bits (signed) of each caption's hash.
        device: where the LLM runs.
    """
    longest, total = max(lengths), sum(lengths)
    count = torch.tensor(lengths)
    starts = torch.tensor([0, *itertools.accumulate(lengths)][:-1])
    index = torch.arange(len(lengths)).repeat_interleave(count)  # the caption of each row
    position = torch.arange(total) - starts[index]
    source = None if total == longest * len(lengths) else (index * longest + position).to(torch.int32).to(device)
    return TokenRows(
        position=position.to(torch.int32).to(device), caption=torch.tensor(captions)[index].to(device), source=source
    )
