"""The request of the promote stage, and the policy by which one adapter is better than another."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from infra.tracking.registry_names import MODEL
from pipelines.requests.base import Request


class PromotionPolicy(Request):
    """A score, the mean over pictures of the prompts, and how much greater it must be."""

    prompts: str | None = None
    """File or folder of prompts, as `llmdiff evaluate` takes it; default: held-out scenes of the synthetic shapes
    benchmark."""
    metric: str = Field(default="binding", validate_default=True)
    """The score that counts. Of the shapes benchmark: colour, binding, relation or count. Of prompts of a file: siglip,
    siglip2, clip or clip-iqa, or one of these with another model, as siglip=<folder or name>."""
    wording: Literal["template", "natural", "unseen_wording"] = "natural"
    """Wording of the shapes benchmark's prompts."""
    margin: float = Field(default=0.0, ge=0)
    """How much greater the candidate's score must be; with 0, greater at all."""
    scenes: int = Field(default=200, ge=1)
    """Held-out scenes of the shapes benchmark, each a prompt."""
    seed: int = 0
    """Seed of the noise; in the shapes benchmark also of scenes and captions."""
    steps: int = Field(default=20, ge=1)
    """Sampling steps."""
    guidance: float = 3.0
    """Classifier-free guidance scale."""

    @field_validator("metric")
    @classmethod
    def check(cls, metric: str, others: ValidationInfo) -> str:
        """Raise ValueError where the metric can't score the prompts."""
        of_file = others.data.get("prompts") is not None
        if of_file:
            from llmdiff.evaluation import METRICS

            known, what = METRICS[1:], "prompts of a file"
        else:
            from llmdiff.shapes.evaluator import FACTS

            known, what = FACTS, "the shapes benchmark's prompts"
        if metric.partition("=")[0] not in known or ("=" in metric and not of_file):
            raise ValueError(f"expected one of {', '.join(known)} for {what}")
        return metric

    @property
    def what(self) -> str:
        """Return the score's name, for people."""
        return f"{self.wording} {self.metric}" if self.prompts is None else f"{self.metric} over {self.prompts}"


class PromoteRequest(Request):
    """Make the candidate the champion where it is better."""

    name: str = MODEL
    """Registered model."""
    policy: PromotionPolicy = Field(default_factory=PromotionPolicy)
    """Policy by which the candidate is compared with the champion."""
    llm: str | None = None
    """Folder, GGUF file or name of the LLM; default: as registered with each version."""
    diffusion: str | None = None
    """Folder, name or single file of the base model; default: the one that each version was trained on."""
