"""The text side of an SDXL base (arXiv 2307.01952): what its cross-attentions read, and its pooled embedding.

Where no prompt is given, SDXL's conditions are zeros, or the empty prompt's, as ``force_zeros_for_empty_prompt`` in its
``model_index.json`` says; the empty caption, which stands for no prompt in the store, is given the same here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor
from transformers import (
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from llmdiff.diffusion.base import is_xl, read_config, read_index, read_model, unet_config
from llmdiff.diffusion.text import BaseTextEncoder, CaptionEncoder, content_hash
from llmdiff.encoder.llm.content_hash import tokenizer_identity
from llmdiff.model_files.base_kinds import check_kind

if TYPE_CHECKING:
    from diffusers import StableDiffusionXLPipeline


class XLTextEncoder(CaptionEncoder):
    """Features as SDXL feeds them: the last but one hidden states of both text encoders, side by side."""

    kind: ClassVar[str] = "base"
    formula: ClassVar[str] = "hidden_states[-2]/1"
    classes: ClassVar[dict[str, Any]] = {"": CLIPTextModel, "_2": CLIPTextModelWithProjection}

    def __init__(
        self,
        text_encoders: Sequence[PreTrainedModel],
        tokenizers: Sequence[PreTrainedTokenizerBase],
        empty_is_zeros: bool,
    ) -> None:
        """Take the models; `empty_is_zeros` says whether the empty caption's features are zeros."""
        super().__init__()
        self.text_encoders = list(text_encoders)
        self.tokenizers = list(tokenizers)
        self.empty_is_zeros = empty_is_zeros

    @classmethod
    def from_pretrained(cls, base: str, device: str | torch.device = "cpu") -> Self:
        """Return the text encoders that it needs of an SDXL; ValueError for SDXL's refiner."""
        index = read_index(base)
        check_kind(f"diffusion model {base}", index, {})
        tokenizers = [read_config(base, f"tokenizer{suffix}", CLIPTokenizer.from_pretrained) for suffix in cls.classes]
        text_encoders = [
            read_model(base, f"text_encoder{suffix}", kind, use_safetensors=True)
            for suffix, kind in cls.classes.items()
        ]
        models = [model.float().eval().to(device) for model in text_encoders]
        return cls(models, tokenizers, index.get("force_zeros_for_empty_prompt", True))

    @classmethod
    def of(cls, pipe: StableDiffusionXLPipeline) -> Self:
        """Return the text encoders of a pipeline."""
        text_encoders = [getattr(pipe, f"text_encoder{suffix}") for suffix in cls.classes]
        tokenizers = [getattr(pipe, f"tokenizer{suffix}") for suffix in cls.classes]
        return cls(text_encoders, tokenizers, pipe.config.force_zeros_for_empty_prompt)

    @property
    def parts(self) -> list[tuple[PreTrainedModel, PreTrainedTokenizerBase]]:
        return list(zip(self.text_encoders, self.tokenizers, strict=True))

    @property
    def hidden_size(self) -> int:
        return sum(int(model.config.hidden_size) for model in self.text_encoders)

    def encode_batch(self, captions: list[str]) -> Tensor:
        """Return features ``(caption, token, hidden)``."""
        outputs = [
            model(self.tokens(model, tokenizer, captions), output_hidden_states=True)
            for model, tokenizer in zip(self.text_encoders, self.tokenizers, strict=True)
        ]
        features = self.features(outputs).float().cpu()
        features[[self.empty_is_zeros and not caption for caption in captions]] = 0
        return features

    def features(self, outputs: list[Any]) -> Tensor:
        """Return ``(caption, token, hidden)`` from what the text encoders put out."""
        return torch.cat([output.hidden_states[-2] for output in outputs], dim=-1)

    def describe(self) -> dict[str, Any]:
        """Return what the features depend on, for the store's fingerprint."""
        return {
            "kind": self.kind,
            "model": [type(model).__name__ for model in self.text_encoders],
            "weights": [content_hash(model) for model in self.text_encoders],
            "tokenizer": [tokenizer_identity(tokenizer) for tokenizer in self.tokenizers],
            "max_tokens": [int(tokenizer.model_max_length) for tokenizer in self.tokenizers],
            "hidden_size": self.hidden_size,
            "empty_caption": "zeros" if self.empty_is_zeros else "encoded",
            "formula": self.formula,
        }


class PooledTextEncoder(XLTextEncoder):
    """Encoder of the second text encoder's pooled embedding, one token, which SDXL's U-Net reads beside its context."""

    kind = "pooled"
    formula = "text_embeds/1"
    classes: ClassVar[dict[str, Any]] = {"_2": CLIPTextModelWithProjection}

    @property
    def hidden_size(self) -> int:
        return int(self.text_encoders[-1].config.projection_dim)

    def features(self, outputs: list[Any]) -> Tensor:
        return outputs[-1].text_embeds.unsqueeze(1)


def load_text_encoder(base: str, device: str | torch.device = "cpu") -> CaptionEncoder:
    """Return the text encoder, or both of them, of a base: folder, name or single file."""
    kind = XLTextEncoder if is_xl(unet_config(base)) else BaseTextEncoder
    return kind.from_pretrained(base, device)


def text_encoder_of(pipe: Any) -> CaptionEncoder:
    """Return the text encoder, or both of them, of a pipeline."""
    if is_xl(pipe.unet.config):
        return XLTextEncoder.of(pipe)
    return BaseTextEncoder(pipe.text_encoder, pipe.tokenizer)
