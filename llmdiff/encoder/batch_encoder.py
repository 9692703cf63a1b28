"""Encode a batch in one forward pass: sum block scores (Algorithm 1, arXiv 2502.04412) or states as they come."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from kernels.langevin import TokenRows
from llmdiff.encoder.config import EncoderConfig
from llmdiff.encoder.llm.decoder_llm import DecoderLLM, ScorePath
from llmdiff.encoder.nonfinite import NonFinite, locate
from llmdiff.encoder.readings import Reading
from llmdiff.encoder.sums.langevin import Langevin, NormalisedLangevin
from llmdiff.encoder.sums.running_sum import RunningSum, ragged_rows
from llmdiff.encoder.sums.state_sum import StateSum
from llmdiff.encoder.sums.word_table import WordTable, load_or_make_table
from llmdiff.encoder.tokens import Tokens, caption_key


class BatchEncoder:
    """Encodes captions that fit into one pass.

    Args:
        llm: the blocks and their scores.
        config: the settings.
        g: step size of each block, from the embedding up.
        h: noise level of each block.
        cache_folder: where the isolated path's table is kept; None: the user's cache folder.
    """

    def __init__(
        self,
        llm: DecoderLLM,
        config: EncoderConfig,
        g: tuple[float, ...],
        h: tuple[float, ...],
        cache_folder: str | Path | None,
    ) -> None:
        self.llm, self.config, self.g, self.h = llm, config, g, h
        self.reading = Reading.parse(config.reading)
        self.cache_folder = cache_folder

    @property
    def path(self) -> ScorePath:
        """What is read of each block: its output, score differences, or sentence scores (with the word table)."""
        if not self.reading.takes_scores:
            return "output"
        return "context" if self.config.word_path == "block" else "sentence"

    def __call__(self, captions: list[str], tokens: list[Tokens], padding: int) -> list[Tensor | NonFinite]:
        """Encode a batch's captions; one whose encoding is not finite is run again, to find where.

        Args:
            captions: the texts, by which noise is drawn.
            tokens: the tokens of each caption.
            padding: the token id that fills shorter captions up.

        Returns:
            float32 (token, hidden) of a caption's kept tokens, on the CPU; (band, token, hidden) where ``bands > 1``.
        """
        total = self._run([token.ids for token in tokens], captions, padding)
        lengths = [len(token.ids) for token in tokens]
        finite = total.finite().cpu().split(lengths)
        parts = zip(captions, tokens, total.c.cpu().split(lengths), finite, strict=True)
        return [
            self._shape(encoding[token.keep]) if bool(ok.all()) else self._locate(caption, token.ids)
            for caption, token, encoding, ok in parts
        ]

    @torch.no_grad()
    def _run(self, ids: list[list[int]], captions: list[str], padding: int) -> RunningSum:
        """Return the finished sum of captions given as token ids."""
        device = self.llm.device
        rows = ragged_rows([len(row) for row in ids], [caption_key(caption) for caption in captions], device)
        total = self._start(rows)
        total.end(self.llm.stream(pad(ids, padding).to(device), self.path, total.fold, total.start, rows.source))
        if isinstance(total, Langevin) and self.config.word_path == "isolated":
            total.subtract(*self._word_scores(ids))
        return total

    def _start(self, rows: TokenRows) -> RunningSum:
        """Return the running sum for these rows, before the first block."""
        dtype = torch.float64 if self.config.dtype == "float64" else torch.float32
        bands, hidden = self.config.bands, self.llm.hidden_size
        if not self.reading.takes_scores:
            states, normalise = self.reading.states(self.llm.blocks, bands), self.reading.kind == "norm_mean"
            return StateSum(rows, states, normalise=normalise, bands=bands, hidden=hidden, dtype=dtype)
        make = NormalisedLangevin if self.reading.kind == "score_norm" else Langevin
        return make(
            rows,
            self.g,
            self.h if self.config.noise == "cached" else (0.0,) * self.llm.blocks,
            bands=bands,
            hidden=hidden,
            initial=self.config.initial,
            seed=self.config.seed,
            dtype=dtype,
        )

    def _locate(self, caption: str, ids: list[int]) -> NonFinite:
        rows = ragged_rows([len(ids)], [caption_key(caption)], self.llm.device)
        return locate(self.llm, self.path, self._start(rows), caption, ids)

    def _shape(self, c: Tensor) -> Tensor:
        """Return an encoding (token, band, hidden) in the shape that callers get."""
        return c[:, 0] if self.config.bands == 1 else c.transpose(0, 1)

    def _word_scores(self, ids: list[list[int]]) -> tuple[Tensor, Tensor]:
        """Return the word scores of a batch's distinct tokens, on the LLM's device, and each token's row in them."""
        needed, index = torch.tensor([token for row in ids for token in row]).unique(return_inverse=True)
        return self._table.rows(needed.tolist()).to(self.llm.device), index.to(self.llm.device, torch.int32)

    @cached_property
    def _table(self) -> WordTable:
        return load_or_make_table(self.llm, self.g, self.config, self.llm.identity, self.cache_folder)


def pad(ids: list[list[int]], padding: int) -> Tensor:
    """Return int64 (caption, token), padded on the right to the longest."""
    longest = max(len(row) for row in ids)
    return torch.tensor([row + [padding] * (longest - len(row)) for row in ids])
