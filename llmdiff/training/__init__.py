"""Training of the adapter from cached tensors, under DeepSpeed.

`loop` and `worker` bring DeepSpeed, which takes seconds; `TrainConfig` brings torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmdiff.training.config import TrainConfig

__all__ = ["TrainConfig"]


def __getattr__(name: str) -> Any:
    """Imports torch for who asks for it: the worker must hear a SIGTERM before that."""
    if name != "TrainConfig":
        raise AttributeError(name)
    from llmdiff.training.config import TrainConfig

    return TrainConfig
