"""The adapter: a second cross-attention in every layer of a frozen U-Net, reading the LLM's encodings (Eq. 9)."""

from llmdiff.adapter.adapter import LLMAdapter
from llmdiff.adapter.attention import LayerShape, cross_attention_shapes
from llmdiff.adapter.config import AdapterConfig, AdapterSettings

__all__ = ["AdapterConfig", "AdapterSettings", "LLMAdapter", "LayerShape", "cross_attention_shapes"]
