"""The adapter: a second cross-attention in every layer of a frozen U-Net, reading the LLM's encodings (Eq. 9).

Names are imported on first use: the settings need no torch, the adapter brings diffusers, which takes seconds.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmdiff.adapter.adapter import LLMAdapter
    from llmdiff.adapter.attention import LayerShape, cross_attention_shapes
    from llmdiff.adapter.config import AdapterConfig, AdapterSettings

_HOMES = {
    "AdapterConfig": "llmdiff.adapter.config",
    "AdapterSettings": "llmdiff.adapter.config",
    "LLMAdapter": "llmdiff.adapter.adapter",
    "LayerShape": "llmdiff.adapter.attention",
    "cross_attention_shapes": "llmdiff.adapter.attention",
}

__all__ = ["AdapterConfig", "AdapterSettings", "LLMAdapter", "LayerShape", "cross_attention_shapes"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'llmdiff.adapter' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
