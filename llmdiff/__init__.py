"""LLMDiff: decoder-only language models as the text side of latent diffusion models.

Names are imported on first use, so that ``import llmdiff`` and the command line's help stay fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmdiff.lazy import lazy

if TYPE_CHECKING:
    from llmdiff.adapter import AdapterConfig, LLMAdapter
    from llmdiff.encoder import Encoder, EncoderConfig
    from llmdiff.pipeline import LLMDiffPipeline, load_adapter, unload_adapter
    from llmdiff.training import TrainConfig

__version__ = "0.1.0"

_HOMES = {
    "AdapterConfig": "llmdiff.adapter",
    "Encoder": "llmdiff.encoder",
    "EncoderConfig": "llmdiff.encoder",
    "LLMAdapter": "llmdiff.adapter",
    "LLMDiffPipeline": "llmdiff.pipeline",
    "TrainConfig": "llmdiff.training",
    "load_adapter": "llmdiff.pipeline",
    "unload_adapter": "llmdiff.pipeline",
}

__all__ = [
    "AdapterConfig",
    "Encoder",
    "EncoderConfig",
    "LLMAdapter",
    "LLMDiffPipeline",
    "TrainConfig",
    "__version__",
    "load_adapter",
    "unload_adapter",
]


__getattr__ = lazy(__name__, _HOMES)


def __dir__() -> list[str]:
    return __all__
