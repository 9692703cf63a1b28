"""Readings of a text that studies compare: an LLM's, by the encoder's settings, or the base's own features."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from llmdiff.diffusion.text import BaseTextEncoder
from llmdiff.encoder import Encoder, EncoderConfig
from llmdiff.shapes import LLAMA
from llmdiff.shapes.captions import PROMPT
from storage.hashing import canonical_json, content_hash


class StudyReading(BaseModel):
    """The choice of what encodes captions in a study."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["llm", "base"] = "llm"
    """An LLM, or the base model's own text encoder."""
    llm: str = str(LLAMA)
    """Folder or name of the LLM; the base's own encoder has none."""
    settings: dict[str, Any] = Field(default_factory=lambda: {"template": PROMPT})
    """Settings of `EncoderConfig`."""

    @property
    def key(self) -> str:
        """Short name made of all settings."""
        return content_hash(canonical_json(self.model_dump()).encode())[:8]

    def load(self, diffusion: str) -> Encoder | BaseTextEncoder:
        """Return the encoder, the LLM on a GPU where there is one."""
        if self.kind == "base":
            return BaseTextEncoder.from_pretrained(diffusion)
        return Encoder.from_pretrained(self.llm, EncoderConfig.from_dict(self.settings))


@torch.no_grad()
def hidden_states(encoder: Encoder, padded: Tensor) -> tuple[Tensor, ...]:
    """Return the embedding and every block's output, ``(caption, token, hidden)`` each, of ids padded on the right.

    The last one has passed the final norm. Attention is causal, so no token sees the padding.
    """
    states: tuple[Tensor, ...] = encoder.llm.backbone(padded, output_hidden_states=True, use_cache=False).hidden_states
    return states
