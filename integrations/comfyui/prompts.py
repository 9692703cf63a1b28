"""An adapter with its LLM, and what they make of a prompt: a conditioning of ComfyUI's."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from llmdiff.adapter import AdapterConfig, LLMAdapter
from llmdiff.adapter.files import check_adapter
from llmdiff.adapter.hub import adapter_folder
from llmdiff.encoder import Encoder
from llmdiff.model_files.model_folders import weights_hash
from llmdiff.pipeline import check_encoder, encoder_settings

from .memory import LoadLLM, load_llm

Conditioning = list[list[Any]]
"""Pairs of a tensor ``(batch, token, channel)``, which the cross-attentions read, and a dictionary of all else."""
MARK = "llmdiff_adapter"
"""Key in such a dictionary: the checksum of the adapter that the tensor is for."""


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """An adapter's folder, with the part of it that projects encodings, and the LLM that encodes."""

    folder: Path
    config: AdapterConfig
    checksum: str
    """SHA-256 of the weights."""
    projection: LLMAdapter
    """`phi` and the refiner, in float32 on the CPU; no layers."""
    encoder: Encoder
    bring: Callable[[], object]
    """Brings the LLM to where it computes."""

    @classmethod
    def load(cls, adapter: str | os.PathLike[str], llm: str, load_llm: LoadLLM = load_llm) -> Adapter:
        """Read an adapter (folder or name on the hub) and the LLM (likewise) that it was trained with.

        Raises:
            FileNotFoundError: there is no such folder.
            ValueError: a file is damaged, the LLM is another than in training, or the adapter needs none.
        """
        folder = adapter_folder(adapter)
        config = check_adapter(folder)
        if config.encoder != "llm":
            raise ValueError(f"{folder}: expected an adapter on an LLM's encodings, found one on the base's own text")
        projection = LLMAdapter.load_for(folder, {})
        encoder, bring = load_llm(llm, encoder_settings(config))
        check_encoder(folder, config, encoder)
        return cls(
            folder=folder,
            config=config,
            checksum=weights_hash(folder),
            projection=projection.eval().requires_grad_(False),
            encoder=encoder,
            bring=bring,
        )

    @property
    def context_tokens(self) -> int | None:
        """Number of tokens that each context has where text features lead it; None where contexts differ.

        ComfyUI repeats the shorter of two contexts to run them as one batch. The attentions give the same for a
        repeated context, but not where text features lead it: so these are all of one length.
        """
        base_tokens = self.config.base_tokens
        return base_tokens + self.encoder.config.max_tokens if base_tokens else None

    @torch.no_grad()
    def conditioning(self, text: str, clip: Conditioning | None = None) -> Conditioning:
        """Return the conditioning of a prompt; of the empty one, what stands for no prompt.

        Args:
            text: the prompt.
            clip: the base model's own conditioning. An adapter with `base_context` "clip" reads it; others leave it to
                ControlNets. What it holds besides (SDXL's pooled embedding and sizes, areas, times) is taken over.

        Raises:
            ValueError: `clip` is not what the adapter reads, or is missing.
        """
        for features, besides in clip or []:
            self.check_clip(features, besides)
        if clip is None and self.config.base_tokens:
            raise ValueError(
                f"{self.folder}: the adapter reads the base model's own text features besides the LLM's: connect CLIP "
                "Text Encode of the same text to `clip`"
            )
        self.bring()
        (encoding,) = self.encoder([text])  # ([k,] t, d)
        if clip is None:
            return [[self.context(encoding, None), {MARK: self.checksum}]]
        return [
            [self.context(encoding, features), {**besides, "cross_attn_controlnet": features, MARK: self.checksum}]
            for features, besides in clip
        ]

    def check_clip(self, features: Tensor, besides: dict[str, Any]) -> None:
        """Raise ValueError where a pair of `clip` is an adapter's, of another base model, or of too long a text."""
        if MARK in besides:
            raise ValueError("clip: expected the conditioning of CLIP Text Encode, found one of an LLMDiff adapter")
        tokens, width = features.shape[1:]
        if width != (expected := self.config.context_dim):
            raise ValueError(
                f"{self.folder}: the adapter goes with a base model whose text features are {expected} wide, found "
                f"{width} (trained on {self.config.base_model or 'an unnamed base'})"
            )
        if self.config.base_tokens not in (0, tokens):
            raise ValueError(
                f"{self.folder}: the adapter reads {self.config.base_tokens} tokens of the base model's own text "
                f"features, found {tokens}: give CLIP Text Encode a shorter text"
            )

    def context(self, encoding: Tensor, features: Tensor | None) -> Tensor:
        """Return ``(batch, token, channel)`` float32 of an encoding ``([band,] token, hidden)`` and text features."""
        batch = 1 if features is None else features.shape[0]
        encodings = encoding.expand(batch, *encoding.shape)
        mask = torch.ones(batch, encoding.shape[-2], dtype=torch.bool)
        if self.context_tokens is None or features is None:
            return self.projection.context(encodings, mask)
        context = self.projection.context(encodings, mask, features.float().cpu())
        return F.pad(context, (0, 0, 0, self.context_tokens - context.shape[1]))
