"""What makes one adapter better than another: a score of its pictures of some prompts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from llmdiff.evaluation import METRICS, Prompt, held_out_prompts, load_metric, read_prompts
from llmdiff.evaluation.evaluate import score_batches
from llmdiff.sampling import Sampling, draw, to_uint8
from llmdiff.shapes.evaluator import FACTS
from pipelines.runtime.progress import advance

BATCH = 4
"""Pictures drawn and scored at once."""


class PromotionPolicy(BaseModel):
    """A score, the mean over pictures of the prompts, and how much greater it must be."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    prompts: str | None = None
    """A file or folder of prompts, as `llmdiff evaluate` takes it; None is held-out scenes of the embedded world."""
    metric: str = Field(default="binding", validate_default=True)
    """Of the embedded world's facts, the one that counts: colour, binding, relation or count; the score is a share. For
    prompts of a file: siglip, siglip2, clip or clip-iqa, or `name=model` with another model of that kind."""
    wording: Literal["template", "natural", "unseen_wording"] = "natural"
    """Of the embedded world's prompts."""
    margin: float = Field(default=0.0, ge=0)
    """How much greater the candidate's score must be; with 0, greater at all."""
    scenes: int = Field(default=200, ge=1)
    """Held-out scenes of the embedded world, each a prompt."""
    seed: int = 0
    """Of the noise; in the embedded world also of scenes and captions."""
    steps: int = Field(default=20, ge=1)
    """Of sampling."""
    guidance: float = 3.0
    """Classifier-free guidance scale."""

    @field_validator("metric")
    @classmethod
    def check(cls, metric: str, others: ValidationInfo) -> str:
        """ValueError where the metric can't score the prompts."""
        of_file = others.data.get("prompts") is not None
        known, what = (METRICS[1:], "prompts of a file") if of_file else (FACTS, "the embedded world's prompts")
        if metric.partition("=")[0] not in known or ("=" in metric and not of_file):
            raise ValueError(f"expected one of {', '.join(known)} for {what}")
        return metric

    @property
    def what(self) -> str:
        """The score, for people."""
        return f"{self.wording} {self.metric}" if self.prompts is None else f"{self.metric} over {self.prompts}"


def prompts_of(policy: PromotionPolicy) -> list[Prompt]:
    """The prompts with their seeds; FileNotFoundError or ValueError where the file holds none."""
    if policy.prompts is not None:
        return read_prompts(Path(policy.prompts), [policy.seed])
    return [prompt for prompt in held_out_prompts(policy.scenes, policy.seed) if prompt.category == policy.wording]


def prompts_hash(prompts: Sequence[Prompt]) -> str:
    """SHA-256 of texts and seeds: a file may change under its name."""
    return hashlib.sha256(json.dumps([(prompt.text, prompt.seed) for prompt in prompts]).encode()).hexdigest()


def score_of(policy: PromotionPolicy, load: Callable[[], Any], prompts: Sequence[Prompt]) -> float:
    """The score of a model.

    Args:
        policy: says how.
        load: gives the diffusers pipeline; called once the metric's own model is there.
        prompts: of `prompts_of`.
    """
    metric = load_metric("facts" if policy.prompts is None else policy.metric)
    column = policy.metric if policy.prompts is None else metric.columns[0]
    texts, seeds = [prompt.text for prompt in prompts], [prompt.seed for prompt in prompts]
    drawn = draw(load(), texts, seeds, Sampling(steps=policy.steps, guidance=policy.guidance), BATCH)
    batches = ([Image.fromarray(picture) for picture in to_uint8(pictures)] for pictures in drawn)
    return float(score_batches(batches, prompts, [metric], advance)[column].mean())
