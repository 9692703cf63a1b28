"""The base model's own text encoder, behind the interface of `llmdiff.encoder.Encoder`.

It gives the original path its context with `base_context` "clip", and the control run its encodings: the same adapter
fed the features that the base has anyway shows what the LLM adds.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from llmdiff.diffusion.base import read_config, read_model
from llmdiff.encoder.llm.content_hash import tokenizer_identity
from llmdiff.encoder.tokens import BadCaption

BATCH = 64


class CaptionEncoder(ABC):
    """Encodes captions in batches, each by a subclass's `encode_batch`."""

    def __init__(self) -> None:
        self.truncated = 0

    @property
    @abstractmethod
    def hidden_size(self) -> int:
        """Width of the features."""

    @property
    @abstractmethod
    def parts(self) -> list[tuple[PreTrainedModel, PreTrainedTokenizerBase]]:
        """The text encoders, each with its tokenizer."""

    @abstractmethod
    def encode_batch(self, captions: list[str]) -> Tensor:
        """Return features ``(caption, token, hidden)``, float32 on the CPU."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Return what the features depend on, for the store's fingerprint."""

    def __call__(self, captions: Sequence[str], progress: Callable[[int, int], None] | None = None) -> list[Tensor]:
        """Return ``(token, hidden)`` float32 on the CPU for each caption; longer captions are cut, and counted.

        `progress` is called with (captions done, captions in all) after each batch.
        """
        encodings: list[Tensor] = []
        for start in range(0, len(captions), BATCH):
            batch = list(captions[start : start + BATCH])
            with torch.no_grad():
                encodings += self.encode_batch(batch).unbind()
            if progress is not None:
                progress(len(encodings), len(captions))
        return encodings

    def encode(
        self, captions: Sequence[str], progress: Callable[[int, int], None] | None = None
    ) -> list[Tensor | BadCaption]:
        """Encode as a call does, but return the reason in place of a caption with a token that has no embedding."""
        bad = self.without_embedding(captions)
        encodings = iter(self([caption for caption in captions if caption not in bad], progress))
        return [bad[caption] if caption in bad else next(encodings) for caption in captions]

    def without_embedding(self, captions: Sequence[str]) -> dict[str, BadCaption]:
        """Return the captions with tokens that the model has no embedding for, as its tokenizer knows more tokens."""
        found: dict[str, BadCaption] = {}
        for model, tokenizer in self.parts:
            vocabulary = int(model.get_input_embeddings().weight.shape[0])
            if len(tokenizer) <= vocabulary:
                continue
            for caption, ids in zip(captions, tokenizer(list(captions)).input_ids, strict=True):
                if (largest := max(ids, default=0)) >= vocabulary:
                    expected = f"expected ids below {vocabulary}, the text encoder's vocabulary"
                    reason = f"caption {caption!r}: the tokenizer gives id {largest}; {expected}"
                    found[caption] = BadCaption("no_embedding", reason)
        return found

    def tokens(self, text_encoder: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, captions: list[str]) -> Tensor:
        """Return token ids ``(caption, max_tokens)``, where the model takes them."""
        length = tokenizer.model_max_length
        self.truncated += sum(len(ids) > length for ids in tokenizer(captions).input_ids)
        ids = tokenizer(captions, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        device = text_encoder.device  # an offloaded model moves its inputs itself
        return ids.input_ids if device.type == "meta" else ids.input_ids.to(device)


class BaseTextEncoder(CaptionEncoder):
    """Features as Stable Diffusion feeds them: the last hidden state over the model's full, padded length."""

    def __init__(self, text_encoder: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__()
        self.text_encoder = text_encoder
        self.tokenizer = tokenizer

    @classmethod
    def from_pretrained(cls, base: str, device: str | torch.device = "cpu") -> BaseTextEncoder:
        """Return the text encoder of a Stable Diffusion: folder, name or single file."""
        tokenizer = read_config(base, "tokenizer", CLIPTokenizer.from_pretrained)
        text_encoder = read_model(base, "text_encoder", CLIPTextModel, use_safetensors=True)
        return cls(text_encoder.float().eval().to(device), tokenizer)

    @property
    def hidden_size(self) -> int:
        return int(self.text_encoder.config.hidden_size)

    @property
    def parts(self) -> list[tuple[PreTrainedModel, PreTrainedTokenizerBase]]:
        return [(self.text_encoder, self.tokenizer)]

    @property
    def max_tokens(self) -> int:
        return int(self.tokenizer.model_max_length)

    def encode_batch(self, captions: list[str]) -> Tensor:
        """Return features ``(caption, max_tokens, hidden)``."""
        ids = self.tokens(self.text_encoder, self.tokenizer, captions)
        return self.text_encoder(ids).last_hidden_state.float().cpu()

    def describe(self) -> dict[str, Any]:
        """Return what the features depend on, for the store's fingerprint."""
        return {
            "kind": "base",
            "model": type(self.text_encoder).__name__,
            "weights": content_hash(self.text_encoder),
            "tokenizer": tokenizer_identity(self.tokenizer),
            "max_tokens": self.max_tokens,
            "hidden_size": self.hidden_size,
            "formula": "last_hidden_state/1",
        }


def content_hash(model: torch.nn.Module) -> str:
    """Return a hash of the weights rounded to bfloat16: a model loaded in bfloat16 has the same one."""
    if any(tensor.is_meta for tensor in model.parameters()):
        raise ValueError("the base's text encoder is offloaded already: load the adapter before")
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if tensor.is_floating_point():  # without position ids, which only some versions of transformers have
            digest.update(name.encode())
            plain = tensor.detach().to("cpu", torch.bfloat16).contiguous().flatten()  # the same in any memory format
            digest.update(plain.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
