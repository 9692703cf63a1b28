"""Training of the adapter from cached tensors, under DeepSpeed.

The settings need no torch: a flow checks them, and the worker listens for a SIGTERM, before anything heavy is imported.
"""

from llmdiff.training.config import TrainConfig

__all__ = ["TrainConfig"]
