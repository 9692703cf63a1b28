"""The adapter: a second cross-attention in every layer of a frozen U-Net, reading the LLM's encodings (Eq. 9).

The settings need no torch. The rest is imported on first use, for it brings diffusers, which takes seconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmdiff.adapter.config import AdapterConfig, AdapterSettings
from llmdiff.lazy import lazy

if TYPE_CHECKING:
    from llmdiff.adapter.adapter import LLMAdapter
    from llmdiff.adapter.attention import LayerShape, cross_attention_shapes

__all__ = ["AdapterConfig", "AdapterSettings", "LLMAdapter", "LayerShape", "cross_attention_shapes"]

__getattr__ = lazy(
    __name__,
    {
        "LLMAdapter": "llmdiff.adapter.adapter",
        "LayerShape": "llmdiff.adapter.attention",
        "cross_attention_shapes": "llmdiff.adapter.attention",
    },
)
