"""The encoder: captions in, text encodings of Algorithm 1 out (arXiv 2502.04412)."""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kernels.langevin import Rows
from llmdiff.encoder.batching import Budget, run_in_batches
from llmdiff.encoder.config import DType, EncoderConfig
from llmdiff.encoder.identity import model_identity, tokenizer_identity
from llmdiff.encoder.langevin import Langevin, band_of, ragged_rows
from llmdiff.encoder.llm import DecoderLLM, ScorePath
from llmdiff.encoder.loading import load_pretrained
from llmdiff.encoder.nonfinite import NonFinite, locate
from llmdiff.encoder.schedules import resolve_schedule
from llmdiff.encoder.table import WordTable, load_or_make_table
from llmdiff.encoder.tokens import Tokens, caption_key, normalise, padding_id, tokenise

logger = logging.getLogger(__name__)
FORMULA_VERSION = 2
"""Raised whenever the same settings would give other numbers."""

Progress = Callable[[int, int], None]


class Encoder:
    """A frozen decoder-only LLM as a text encoder.

    A run repeated with the same captions gives the same bits. In other company a caption's matrix products have other
    shapes and round differently: by about 2e-6 of the encoding in float32, and up to 2e-2 in bfloat16, which is what
    that dtype's hidden states are off themselves.

    Args:
        model: a transformers causal language model, its weights in the configuration's dtype.
        tokenizer: its tokenizer.
        config: the settings; defaults where None.
        cache_folder: where the isolated path's table is kept; None: the user's cache folder.

    Raises:
        ValueError: the model is not decoder-only, its dtype is not the configuration's, a schedule does not fit its
            number of blocks, or the tokenizer lacks a pad token, or the EOS token that ``append_eos`` asks for.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        config: EncoderConfig | None = None,
        *,
        cache_folder: str | Path | None = None,
    ) -> None:
        self.config = config or EncoderConfig()
        self.llm = DecoderLLM(model)
        self.tokenizer = tokenizer
        self.cache_folder = cache_folder
        self.truncated = 0
        self._budget = Budget(self.config.token_budget)
        self.g = resolve_schedule(self.config.g, self.llm.blocks)
        self.h = resolve_schedule(self.config.h, self.llm.blocks)
        self._check()

    @classmethod
    def from_pretrained(
        cls,
        name_or_folder: str | Path,
        config: EncoderConfig | None = None,
        *,
        revision: str | None = None,
        dtype: DType | None = None,
        device: str | torch.device | None = None,
        cache_folder: str | Path | None = None,
    ) -> Encoder:
        """The encoder of a folder or a hub name. Only safetensors weights, and no code of the model's own, are loaded.

        A tokenizer without a pad token, as Phi's and Llama's are, is given its EOS for one.

        Args:
            name_or_folder: a folder that ``save_pretrained`` wrote, or a name on the hub.
            config: the settings; defaults where None.
            revision: the hub revision.
            dtype: overrides the configuration's.
            device: where the LLM runs; a GPU where there is one and None is given.
            cache_folder: as for the constructor.

        Raises:
            ValueError: there is no tokenizer, or one with neither a pad token nor EOS, no safetensors weights, or no
                decoder-only LLM that transformers knows.
            FileNotFoundError: there is no such folder.
        """
        config = config or EncoderConfig()
        if dtype is not None:
            config = dataclasses.replace(config, dtype=dtype)
        model, tokenizer = load_pretrained(name_or_folder, getattr(torch, config.dtype), revision)
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        return cls(model.to(device), tokenizer, config, cache_folder=cache_folder)

    @property
    def hidden_size(self) -> int:
        """The width of an encoding."""
        return self.llm.hidden_size

    @property
    def path(self) -> ScorePath:
        """What is taken of each block: score differences, or sentence scores that the word table is subtracted from."""
        return "context" if self.config.word_path == "block" else "sentence"

    @property
    def noise_std(self) -> tuple[float, ...]:
        """Standard deviation, band by band, of the noise that ``noise="fresh"`` leaves to each use: sqrt(2 sum h).

        Training draws it at every step; pipelines read the encoding as it is, the noise's mean.
        """
        sums = [0.0] * self.config.bands
        if self.config.noise == "fresh":
            for index, level in enumerate(self.h):
                sums[band_of(index, self.llm.blocks, self.config.bands)] += 2.0 * level
        return tuple(total**0.5 for total in sums)

    def __call__(self, captions: Sequence[str], progress: Progress | None = None) -> list[Tensor]:
        """The encodings of the captions, in their order.

        Args:
            captions: any texts; equal ones are encoded once and share their tensor.
            progress: called with (captions done, captions in all) after each batch.

        Returns:
            float32 (token, hidden) a caption, on the CPU; (band, token, hidden) where ``bands > 1``.

        Raises:
            NonFinite: a caption's encoding holds NaN or infinity (:meth:`encode` goes on instead).
        """
        results: list[Tensor] = []
        for result in self.encode(captions, progress):
            if isinstance(result, NonFinite):
                raise result
            results.append(result)
        return results

    def encode(self, captions: Sequence[str], progress: Progress | None = None) -> list[Tensor | NonFinite]:
        """As a call, but a caption whose encoding is not finite gets the error in its place, and the rest go on."""
        texts = [normalise(caption) for caption in captions]
        copies = Counter(texts)
        unique = list(copies)
        tokens = tokenise(self.tokenizer, unique, self.config, self.llm.vocabulary)
        self._report_truncated(sum(copies[text] for text, token in zip(unique, tokens, strict=True) if token.truncated))
        results: dict[str, Tensor | NonFinite] = {}
        done = 0

        def run(indices: list[int]) -> list[Tensor | NonFinite]:
            return self._encode_batch([unique[i] for i in indices], [tokens[i] for i in indices])

        lengths = [len(token.ids) for token in tokens]
        for indices, encodings in run_in_batches(lengths, self._budget, run):
            for i, encoding in zip(indices, encodings, strict=True):
                results[unique[i]] = encoding
                done += copies[unique[i]]
            if progress is not None:
                progress(done, len(texts))
        return [results[text] for text in texts]

    def describe(self) -> dict[str, Any]:
        """All that decides an encoding's numbers, as JSON values: what a fingerprint is made of.

        Paths, devices and batch sizes are not in it; settings without an effect (noise levels while noise is off) are
        None.
        """
        config = self.config
        drawn = config.noise == "cached"
        left = {"noise_std": list(self.noise_std)} if config.noise == "fresh" else {}
        return {
            "kind": "llm",
            "formula": FORMULA_VERSION,
            "llm": {"class": self.llm.name, "content": self._model_identity, "hidden_size": self.hidden_size},
            "tokenizer": self._tokenizer_identity,
            "word_path": config.word_path,
            "g": list(self.g),
            "h": list(self.h) if config.noise != "off" else None,
            "bands": config.bands,
            "initial": config.initial,
            "noise": config.noise,
            "seed": config.seed if drawn or config.initial == "noise" else None,
            "max_tokens": config.max_tokens,
            "append_eos": config.append_eos,
            "template": config.template,
            "dtype": config.dtype,
            **left,
        }

    def _check(self) -> None:
        """Raises ValueError where model, tokenizer and settings do not fit each other."""
        wanted = getattr(torch, self.config.dtype)
        if self.llm.dtype != wanted:
            raise ValueError(f"the LLM's weights are {self.llm.dtype}; expected {wanted}, the configuration's dtype")
        if self.config.bands > self.llm.blocks:
            raise ValueError(f"bands is {self.config.bands}; expected at most {self.llm.blocks}, the LLM's blocks")
        if self.config.append_eos and self.tokenizer.eos_token_id is None:
            raise ValueError("the tokenizer has no EOS token; set one, or append_eos=False")
        padding_id(self.tokenizer)

    def _report_truncated(self, count: int) -> None:
        self.truncated += count
        if count:
            logger.warning("%d captions were cut to %d tokens", count, self.config.max_tokens)

    def _encode_batch(self, captions: list[str], tokens: list[Tokens]) -> list[Tensor | NonFinite]:
        """The encodings of a batch's captions, non-finite ones located."""
        langevin = self._run([token.ids for token in tokens], captions)
        lengths = [len(token.ids) for token in tokens]
        finite = langevin.finite().cpu().split(lengths)
        parts = zip(captions, tokens, langevin.c.cpu().split(lengths), finite, strict=True)
        return [
            self._shape(encoding) if bool(ok.all()) else locate(self, caption, token.ids)
            for caption, token, encoding, ok in parts
        ]

    def _shape(self, c: Tensor) -> Tensor:
        """(token, band, hidden) as callers see it."""
        return c[:, 0] if self.config.bands == 1 else c.transpose(0, 1)

    @torch.no_grad()
    def _run(self, ids: list[list[int]], captions: list[str]) -> Langevin:
        """The finished sum of captions given as token ids: Algorithm 1 over one forward pass."""
        device = self.llm.device
        rows = ragged_rows([len(row) for row in ids], [caption_key(caption) for caption in captions], device)
        padded = pad(ids, padding_id(self.tokenizer)).to(device)
        langevin = self.langevin(rows)
        self.llm.stream(padded, self.path, langevin.fold, langevin.start, rows.source)
        if self.config.word_path == "isolated":
            langevin.subtract(*self._word_scores(ids))
        return langevin

    def langevin(self, rows: Rows) -> Langevin:
        """The running sum of Algorithm 1 for these rows, with this encoder's settings."""
        drawn = self.h if self.config.noise == "cached" else (0.0,) * self.llm.blocks
        return Langevin(
            rows,
            self.g,
            drawn,
            bands=self.config.bands,
            hidden=self.hidden_size,
            initial=self.config.initial,
            seed=self.config.seed,
            dtype=torch.float64 if self.config.dtype == "float64" else torch.float32,
        )

    def _word_scores(self, ids: list[list[int]]) -> tuple[Tensor, Tensor]:
        """The word scores of a batch's different tokens, where the LLM runs, and the line in them of every token."""
        needed, index = torch.tensor([token for row in ids for token in row]).unique(return_inverse=True)
        return self._table.rows(needed.tolist()).to(self.llm.device), index.to(self.llm.device, torch.int32)

    @cached_property
    def _table(self) -> WordTable:
        return load_or_make_table(self.llm, self.g, self.config, self._model_identity, self.cache_folder)

    @cached_property
    def _model_identity(self) -> str:
        return model_identity(self.llm.backbone)

    @cached_property
    def _tokenizer_identity(self) -> str:
        return tokenizer_identity(self.tokenizer, eos_pads=True)


def pad(ids: list[list[int]], padding: int) -> Tensor:
    """int64 (caption, token), padded on the right to the longest."""
    longest = max(len(row) for row in ids)
    return torch.tensor([row + [padding] * (longest - len(row)) for row in ids])
