"""Algorithm 1 (arXiv 2502.04412) over one batch: one forward pass, whose block scores are summed as they come."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from kernels.langevin import TokenRows
from llmdiff.encoder.config import EncoderConfig
from llmdiff.encoder.langevin import Langevin, ragged_rows
from llmdiff.encoder.llm import DecoderLLM, ScorePath
from llmdiff.encoder.nonfinite import NonFinite, locate
from llmdiff.encoder.tokens import Tokens, caption_key
from llmdiff.encoder.word_table import WordTable, load_or_make_table


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
        self.cache_folder = cache_folder

    @property
    def path(self) -> ScorePath:
        """What is taken of each block: score differences, or sentence scores that the word table is subtracted from."""
        return "context" if self.config.word_path == "block" else "sentence"

    def __call__(self, captions: list[str], tokens: list[Tokens], padding: int) -> list[Tensor | NonFinite]:
        """Encode a batch's captions; one whose encoding is not finite is run again, to find where.

        Args:
            captions: the texts, by which noise is drawn.
            tokens: of each.
            padding: the token id that fills shorter captions up.

        Returns:
            float32 (token, hidden) a caption, on the CPU; (band, token, hidden) where ``bands > 1``.
        """
        langevin = self._run([token.ids for token in tokens], captions, padding)
        lengths = [len(token.ids) for token in tokens]
        finite = langevin.finite().cpu().split(lengths)
        parts = zip(captions, tokens, langevin.c.cpu().split(lengths), finite, strict=True)
        return [
            self._shape(encoding) if bool(ok.all()) else self._locate(caption, token.ids)
            for caption, token, encoding, ok in parts
        ]

    @torch.no_grad()
    def _run(self, ids: list[list[int]], captions: list[str], padding: int) -> Langevin:
        """Return the finished sum of captions given as token ids."""
        device = self.llm.device
        rows = ragged_rows([len(row) for row in ids], [caption_key(caption) for caption in captions], device)
        langevin = self._start(rows)
        self.llm.stream(pad(ids, padding).to(device), self.path, langevin.fold, langevin.start, rows.source)
        if self.config.word_path == "isolated":
            langevin.subtract(*self._word_scores(ids))
        return langevin

    def _start(self, rows: TokenRows) -> Langevin:
        """Return the running sum for these rows, before the first block."""
        return Langevin(
            rows,
            self.g,
            self.h if self.config.noise == "cached" else (0.0,) * self.llm.blocks,
            bands=self.config.bands,
            hidden=self.llm.hidden_size,
            initial=self.config.initial,
            seed=self.config.seed,
            dtype=torch.float64 if self.config.dtype == "float64" else torch.float32,
        )

    def _locate(self, caption: str, ids: list[int]) -> NonFinite:
        rows = ragged_rows([len(ids)], [caption_key(caption)], self.llm.device)
        return locate(self.llm, self.path, self._start(rows), caption, ids)

    def _shape(self, c: Tensor) -> Tensor:
        """Return (token, band, hidden) as callers see it."""
        return c[:, 0] if self.config.bands == 1 else c.transpose(0, 1)

    def _word_scores(self, ids: list[list[int]]) -> tuple[Tensor, Tensor]:
        """Return the word scores of a batch's different tokens, where the LLM runs, and every token's line in them."""
        needed, index = torch.tensor([token for row in ids for token in row]).unique(return_inverse=True)
        return self._table.rows(needed.tolist()).to(self.llm.device), index.to(self.llm.device, torch.int32)

    @cached_property
    def _table(self) -> WordTable:
        return load_or_make_table(self.llm, self.g, self.config, self.llm.identity, self.cache_folder)


def pad(ids: list[list[int]], padding: int) -> Tensor:
    """Return int64 (caption, token), padded on the right to the longest."""
    longest = max(len(row) for row in ids)
    return torch.tensor([row + [padding] * (longest - len(row)) for row in ids])
