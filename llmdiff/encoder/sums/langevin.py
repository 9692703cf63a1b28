"""Algorithm 1 as a stream: each block's score is added to the encoding as it is computed, and not kept."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import layer_norm

from kernels.langevin import TokenRows, langevin_step
from llmdiff.encoder.llm.scores import BlockScore
from llmdiff.encoder.readings import band_of
from llmdiff.encoder.sums.running_sum import RunningSum

Terms = tuple[Tensor, Tensor | None, Tensor | None]
INITIAL_NOISE = 0  # the block number under which c_T is drawn; blocks are numbered t = T .. 1


class Langevin(RunningSum):
    """The sum of the blocks' scores. The initial value goes to the first of the depth bands.

    Args:
        rows, bands, hidden, dtype: see `RunningSum`.
        g, h: step size and noise level of each block, from the embedding up.
        initial: ``zeros``, ``embedding`` or ``noise``.
        seed: seed of the noise.
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
        super().__init__(rows, bands=bands, hidden=hidden, dtype=dtype)
        self.g, self.h, self.initial, self.seed = g, h, initial, seed
        self.ragged = dataclasses.replace(rows, source=None)
        self.end_is_finite: Tensor | None = None

    def start(self, x: Tensor) -> None:
        """Set ``c_T`` from the embeddings ``x`` (batch, token, hidden)."""
        if self.initial == "zeros":
            return
        if self.initial == "embedding":
            self.c[:, 0].copy_(self._on_rows(x.flatten(0, 1)))
        else:  # sqrt(2 / 2) eps and nothing of x
            self._step(0, x.to(self.c.device), g=0.0, h=0.5, block=INITIAL_NOISE)
        self.begun[0] = True

    def fold(self, score: BlockScore) -> None:
        """Add a block: ``c <- c + g(t) score + sqrt(2 h(t)) eps_t``."""
        band = band_of(score.index, len(self.g), self.bands)
        block = len(self.g) - score.index
        g, h = self.g[score.index], self.h[score.index]
        self._step(band, *self._terms(score), g=g, h=h, block=block)
        if score.index == len(self.g) - 1:
            self.end_is_finite = self._on_rows(torch.isfinite(score.output).all(dim=-1).flatten())

    def finite(self) -> Tensor:
        """Return whether no block gave a row NaN or infinity: bool (row,).

        Neither leaves the residual stream once it is in there, so the last block's output is looked at beside ``c``:
        what a parallel block's MLP gives is in no score, for it cancels.
        """
        finite = super().finite()
        return finite if self.end_is_finite is None else finite & self.end_is_finite

    def subtract(self, table: Tensor, source: Tensor) -> None:
        """Subtract the summed word scores of the isolated path.

        Args:
            table: word scores (id, band, hidden).
            source: int32 (row,), the table's line for each row.
        """
        rows = TokenRows(position=self.rows.position, caption=self.rows.caption, source=source)
        for band in range(self.bands):
            langevin_step(self.c[:, band], table[:, band], rows=rows, g=-1.0)

    def _terms(self, score: BlockScore) -> Terms:
        """Return a score's ``plus``, ``also`` and ``minus`` on the device of the sum."""
        also = None if score.also is None else score.also.to(self.c.device)
        minus = None if score.minus is None else score.minus.to(self.c.device)
        return score.plus.to(self.c.device), also, minus

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
        terms = plus.flatten(0, -2), _flat(also), _flat(minus)
        langevin_step(c, *terms, rows=rows, g=g, h=h, seed=self.seed, block=block, accumulate=begun)


class NormalisedLangevin(Langevin):
    """Each block's score layer-normalised, over channels and without learned weights, before ``g`` weights it.

    So no block rules the sum by the size of its updates, nor a channel by being large in a few blocks. Where there is
    no score, at the first token, none comes of it.
    """

    def _terms(self, score: BlockScore) -> Terms:
        plus, also, minus = super()._terms(score)
        total = plus.to(self.c.dtype)
        total = total if also is None else total + also
        total = total if minus is None else total - minus
        return layer_norm(total, total.shape[-1:]), None, None


def _flat(term: Tensor | None) -> Tensor | None:
    """Return (batch, token, hidden) or (row, hidden) as (row, hidden)."""
    return None if term is None else term.flatten(0, -2)


def noise_std(h: Sequence[float], blocks: int, bands: int) -> tuple[float, ...]:
    """Return the standard deviation, band by band, of all the noise that the levels `h` draw: sqrt(2 sum h)."""
    sums = [0.0] * bands
    for index, level in enumerate(h):
        sums[band_of(index, blocks, bands)] += 2.0 * level
    return tuple(total**0.5 for total in sums)
