"""Readings of a text: the paper's score difference, and what it is compared with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from llmdiff.diffusion.text import BaseTextEncoder
from llmdiff.encoder import Encoder, EncoderConfig
from llmdiff.encoder.batch_encoder import pad
from llmdiff.encoder.batching import batches_by_tokens
from llmdiff.encoder.tokens import normalise, padding_id, tokenise
from llmdiff.shapes import LLAMA
from llmdiff.shapes.captions import PROMPT
from storage.hashing import canonical_json, content_hash

States = Literal["last", "middle", "mean"]
STATES: dict[States, Callable[[tuple[Tensor, ...]], Tensor]] = {  # of transformers' hidden states: embedding, blocks
    "last": lambda states: states[-1],
    "middle": lambda states: states[len(states) // 2],
    "mean": lambda states: torch.stack(states[1:]).mean(0),
}
FORMULA_VERSION = 1


class Reading(BaseModel):
    """What encodes captions."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["score", "hidden", "base"] = "score"
    """The paper's score sums; hidden states as they are; or the base model's own text encoder."""
    llm: str = str(LLAMA)
    """Folder or name of the LLM; the base's own encoder has none."""
    settings: dict[str, Any] = Field(default_factory=lambda: {"template": PROMPT})
    """Settings of `EncoderConfig`; hidden states heed those on tokens and dtype."""
    states: States = "last"
    """Which hidden states."""

    @property
    def key(self) -> str:
        """A short name of all that is set."""
        return content_hash(canonical_json(self.model_dump()).encode())[:8]

    def load(self, diffusion: str) -> Encoder | HiddenStates | BaseTextEncoder:
        """Return the encoder, the LLM on a GPU where there is one."""
        if self.kind == "base":
            return BaseTextEncoder.from_pretrained(diffusion)
        encoder = Encoder.from_pretrained(self.llm, EncoderConfig.from_dict(self.settings))
        return encoder if self.kind == "score" else HiddenStates(encoder, self.states)


class HiddenStates:
    """An LLM's hidden states over the same tokens as an `Encoder`'s scores, behind the same interface.

    ``last`` has passed the LLM's final norm, as transformers gives it; ``middle`` is the output of block ``T // 2``;
    ``mean`` is over all blocks, the embedding left out.
    """

    def __init__(self, encoder: Encoder, states: States) -> None:
        self.encoder = encoder
        self.states = states
        self.truncated = 0

    @property
    def hidden_size(self) -> int:
        return self.encoder.hidden_size

    def __call__(self, captions: Sequence[str], progress: Callable[[int, int], None] | None = None) -> list[Tensor]:
        """Return a ``(token, hidden)`` float32 tensor on the CPU for each caption, in their order.

        `progress` is called with (captions done, captions in all) after each batch.
        """
        encoder = self.encoder
        texts = [normalise(caption) for caption in captions]
        tokens = tokenise(encoder.tokenizer, texts, encoder.config, encoder.llm.vocabulary)
        self.truncated += sum(token.truncated for token in tokens)
        found: dict[int, Tensor] = {}
        for batch in batches_by_tokens([len(token.ids) for token in tokens], encoder.config.token_budget):
            ids = [tokens[i].ids for i in batch]
            padded = pad(ids, padding_id(encoder.tokenizer)).to(encoder.llm.device)
            rows = STATES[self.states](hidden_states(encoder, padded)).float().cpu()
            found |= {i: row[: len(own)] for i, own, row in zip(batch, ids, rows, strict=True)}
            if progress is not None:
                progress(len(found), len(texts))
        return [found[i] for i in range(len(texts))]

    def describe(self) -> dict[str, Any]:
        """Return what the encodings depend on, for the store's fingerprint."""
        about = self.encoder.describe()
        shared = ("llm", "tokenizer", "max_tokens", "append_eos", "template", "dtype")
        return {
            "kind": "hidden",
            "formula": FORMULA_VERSION,
            "states": self.states,
            **{name: about[name] for name in shared},
        }


@torch.no_grad()
def hidden_states(encoder: Encoder, padded: Tensor) -> tuple[Tensor, ...]:
    """Return the embedding and every block's output, ``(caption, token, hidden)`` each, of ids padded on the right.

    Attention is causal, so no token sees the padding.
    """
    states: tuple[Tensor, ...] = encoder.llm.backbone(padded, output_hidden_states=True, use_cache=False).hidden_states
    return states
