"""The request of the evaluate stage."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from pipelines.requests.base import CommandLine, OptionalPathText
from pipelines.requests.drawing import DrawingRequest


class EvaluateRequest(DrawingRequest):
    """Score an adapter's pictures and baselines' of the same prompts, from the same seeds."""

    prompts: OptionalPathText = None
    """A txt, csv, tsv or jsonl file, or a folder of txt; default: held-out scenes of the synthetic shapes benchmark."""
    baselines: Annotated[list[str] | None, CommandLine(flag="--baseline", metavar="[NAME=]MODEL")] = None
    """The base model without the adapter (base, the default), a diffusers pipeline, or another adapter; several."""
    metrics: Annotated[list[str] | None, CommandLine(flag="--metric", metavar="NAME[=MODEL]")] = None
    """Scores: siglip, siglip2, clip, clip-iqa, facts (the shapes benchmark's rule-based evaluator), cmmd, fid; several.
    Default: facts for the shapes benchmark; for other prompts the first four, with cmmd where there are references."""
    references: OptionalPathText = None
    """Folder of pictures that cmmd and fid compare with."""
    seeds: list[int] | None = None
    """Seeds of the noise, each a picture of each prompt; in the shapes benchmark also of scenes. Default: 0."""
    output: OptionalPathText = None
    """Folder for report and scores; default: one below the folder of runs."""
    pictures: OptionalPathText = None
    """Folder, not a number: where all pictures ever drawn are kept. What is there is not drawn again. Default: one
    below the folder of runs."""
    scenes: int = Field(default=200, ge=1)
    """Scenes of the shapes benchmark, each drawn in every wording."""
    steps: int = Field(default=20, ge=1)
    """Sampling steps."""
    guidance: float = 3.0
    """Classifier-free guidance scale."""
    size: int | None = Field(default=None, ge=8, multiple_of=8)
    """Side of the pictures in pixels; default: each model's own."""
