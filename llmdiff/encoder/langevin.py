"""Algorithm 1 as a stream: each block's score goes into the encoding when it is there, and is forgotten."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from kernels.langevin import TokenRows, langevin_step
from llmdiff.encoder.scores import BlockScore

INITIAL_NOISE = 0  # the block number under which c_T is drawn; blocks are numbered t = T .. 1


class Langevin:
    """The encoding ``c`` (row, band, hidden) of a batch while the LLM runs. Rows are ragged: one a token, no padding.

    Args:
        rows: the token that each row is.
        g, h: step size and noise level of each block, from the embedding up.
        bands: depth bands whose sums are kept apart; the initial value goes to the first.
        hidden: the LLM's width.
        initial: ``zeros``, ``embedding`` or ``noise``.
        seed: seed of the noise.
        dtype: float32, or float64 for an LLM in float64.
    """

    def __init__(
        self,
        rows: TokenRows,
        g: tuple[float, ...],
        h: tuple[float, ...],
        *,
        bands: int,
        hidden: int,
        initial: str,
        seed: int,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.rows, self.g, self.h, self.seed = rows, g, h, seed
        self.ragged = dataclasses.replace(rows, source=None)
        self.bands, self.initial = bands, initial
        self.c = torch.empty(len(rows), bands, hidden, dtype=dtype, device=rows.device)
        self.begun = [False] * bands
        self.end_is_finite: Tensor | None = None

    def start(self, x: Tensor) -> None:
        """Set ``c_T`` from the embeddings ``x`` (batch, token, hidden)."""
        if self.initial == "zeros":
            return
        if self.initial == "embedding":
            self.c[:, 0].copy_(self._on_rows(x.flatten(0, 1).to(self.c.device)))
        else:  # sqrt(2 / 2) eps and nothing of x
            self._step(0, x, g=0.0, h=0.5, block=INITIAL_NOISE)
        self.begun[0] = True

    def fold(self, score: BlockScore) -> None:
        """Add a block, wherever its score lies: ``c <- c + g(t) score + sqrt(2 h(t)) eps_t``."""
        band = band_of(score.index, len(self.g), self.bands)
        block = len(self.g) - score.index
        g, h = self.g[score.index], self.h[score.index]
        self._step(band, score.plus, score.also, score.minus, g=g, h=h, block=block)
        if score.index == len(self.g) - 1:
            finite = torch.isfinite(score.output).all(dim=-1).flatten()
            self.end_is_finite = self._on_rows(finite.to(self.c.device))

    def finite(self) -> Tensor:
        """Return whether no block gave a row NaN or infinity: bool (row,).

        Neither leaves the residual stream once it is in there, so the last block's output is looked at beside ``c``:
        what a parallel block's MLP gives is in no score, for it cancels.
        """
        finite = torch.isfinite(self.c).flatten(1).all(dim=1)  # (row,)
        return finite if self.end_is_finite is None else finite & self.end_is_finite

    def subtract(self, table: Tensor, source: Tensor) -> None:
        """Take the summed word scores of the isolated path away.

        Args:
            table: word scores (id, band, hidden).
            source: int32 (row,), the line of the table for each row.
        """
        rows = TokenRows(position=self.rows.position, caption=self.rows.caption, source=source)
        for band in range(self.bands):
            langevin_step(self.c[:, band], table[:, band], rows=rows, g=-1.0)

    def _on_rows(self, flat: Tensor) -> Tensor:
        """Return what of padded outputs (batch * token, ...) belongs to each row: (row, ...)."""
        return flat if self.rows.source is None else flat.index_select(0, self.rows.source)

    def _step(
        self,
        band: int,
        plus: Tensor,
        also: Tensor | None = None,
        minus: Tensor | None = None,
        *,
        g: float,
        h: float,
        block: int,
    ) -> None:
        begun, self.begun[band] = self.begun[band], True
        rows = self.rows if plus.ndim == 3 else self.ragged
        c = self.c[:, band]
        terms = plus.to(c.device).flatten(0, -2), _flat(also, c.device), _flat(minus, c.device)
        langevin_step(c, *terms, rows=rows, g=g, h=h, seed=self.seed, block=block, accumulate=begun)


def _flat(term: Tensor | None, device: torch.device) -> Tensor | None:
    """(batch, token, hidden) or (row, hidden) -> (row, hidden) on the sum's device."""
    return None if term is None else term.to(device).flatten(0, -2)


def band_of(index: int, blocks: int, bands: int) -> int:
    """Return the depth band of a block: equal shares, from the embedding up."""
    return index * bands // blocks


def noise_std(h: Sequence[float], blocks: int, bands: int) -> tuple[float, ...]:
    """Return the standard deviation, band by band, of all the noise that the levels `h` draw: sqrt(2 sum h)."""
    sums = [0.0] * bands
    for index, level in enumerate(h):
        sums[band_of(index, blocks, bands)] += 2.0 * level
    return tuple(total**0.5 for total in sums)


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
