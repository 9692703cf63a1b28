"""Training of the adapter from cached tensors, under DeepSpeed.

`TrainConfig` imports in a moment; `loop` and `worker` bring DeepSpeed, which takes seconds.
"""

from llmdiff.training.config import TrainConfig

__all__ = ["TrainConfig"]
