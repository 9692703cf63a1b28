"""The request of the generate stage."""

from __future__ import annotations

from pydantic import Field

from pipelines.requests.drawing import DrawingRequest


class GenerateRequest(DrawingRequest):
    """Draw prompts with and without an adapter, from the same seeds."""

    prompts: list[str]
    """What to draw."""
    seed: int = Field(default=0, ge=-(2**63), lt=2**63)
    """Seed of the first picture's noise; the next picture has the next one, whatever the batch."""
    negative: str = ""
    """What not to draw."""
    scale: float = 1.0
    """How much of the adapter: 1 as trained, 0 none."""
    count: int = Field(default=1, ge=1)
    """Pictures of each prompt."""

    @property
    def texts(self) -> list[str]:
        """The prompt of each picture."""
        return [prompt for prompt in self.prompts for _ in range(self.count)]
