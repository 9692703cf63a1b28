"""The interface of text encoders that adapters, the store and the probe use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor


class TextEncoder(Protocol):
    """An LLM's `llmdiff.encoder.Encoder`, or a base model's own `llmdiff.diffusion.text.BaseTextEncoder`."""

    @property
    def hidden_size(self) -> int:
        """Width of an encoding."""
        ...

    def __call__(self, captions: Sequence[str]) -> list[Tensor]:
        """Return each caption's encoding, float32 ``([band,] token, hidden)`` on the CPU."""
        ...

    def describe(self) -> dict[str, Any]:
        """Return all that decides an encoding's numbers, as JSON values: what the store's fingerprint is made of."""
        ...
