"""The request of a probe of text encoders."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from llmdiff.encoder.config import EncoderConfig
from pipelines.requests.base import CommandLine, Request


class ProbeRequest(Request):
    """Tell how well a text encoder's tokens carry who is what and where, without a picture."""

    llm: str | None = None
    """Folder, GGUF file or name of the decoder-only LLM."""
    diffusion: str | None = None
    """Folder, name or single file of a Stable Diffusion, whose own text features are probed, beside an LLM or alone."""
    readings: Annotated[list[str], CommandLine(flag="--reading", metavar="READING")] = []
    """What to read of the LLM; may be given several times. Default: score, score_norm, norm_mean, mean, last, layer:-2,
    and the layers at half and two thirds of its depth. All share a pass of the LLM, which is what takes the time."""
    templates: Annotated[list[str], CommandLine(flag="--template", metavar="TEMPLATE")] = ["{caption}"]
    """Text around a caption, or `chat`; may be given several times. Each takes a pass of the LLM."""
    captions: int = Field(default=1200, ge=1)
    """Captions that a probe learns on."""
    tests: int = Field(default=200, ge=1)
    """Captions of held-out pairs that it is asked about, in wordings of training and in new ones each."""
    steps: int = Field(default=400, ge=1)
    """Steps of training each probe."""
    reach: int = Field(default=3, ge=0)
    """How many, those best on top, are probed within reach, too: with a refiner, which takes three to four times as
    long."""
    seed: int = Field(default=0, ge=0)
    """Seed of captions, first weights and batches."""
    settings: EncoderConfig = EncoderConfig()
    """Other settings of the LLM's encoder. Their dtype's default here is float32 on a CPU."""
