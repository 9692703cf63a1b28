"""Decoder-only LLMs as text encoders. Imports torch, triton and transformers alone."""

from llmdiff.encoder.config import EncoderConfig
from llmdiff.encoder.encoder import FORMULA_VERSION, Encoder
from llmdiff.encoder.nonfinite import NonFinite
from llmdiff.encoder.tokens import BadCaption

__all__ = ["BadCaption", "FORMULA_VERSION", "Encoder", "EncoderConfig", "NonFinite"]
