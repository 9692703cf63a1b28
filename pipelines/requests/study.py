"""The request of a study, and its sizes."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from pipelines.requests.base import OptionalPathText, Request

StudyName = Literal[
    "prompts", "encodings", "pathways", "weights", "stability", "closed", "scale", "latency", "probe", "real"
]
ON_ANY_LLM: tuple[StudyName, ...] = ("prompts", "encodings", "stability", "closed", "real")
"""Studies that take an LLM in the embedded one's place."""


class Sizes(Request):
    """Sizes of studies; they are the same for all variants of one."""

    pictures: int = Field(default=3000, ge=8)
    """Number of pictures drawn for training."""
    steps: int = Field(default=200, ge=1)
    """Steps of training each adapter."""
    scenes: int = Field(default=80, ge=1)
    """Held-out scenes evaluated, each in every wording."""
    seeds: int = Field(default=2, ge=1)
    """Trainings of each variant, where a study repeats them."""
    captions: int = Field(default=200, ge=2)
    """Captions whose encodings are looked at."""
    llm_steps: int = Field(default=1200, ge=1)
    """Steps of training a smaller LLM; the embedded Phi had as many."""
    student_steps: int = Field(default=1000, ge=1)
    """Steps of training a student of an LLM."""
    processes: int = Field(default=2, ge=1)
    """Processes that train an adapter; they share a batch of 32."""


class LongSizes(Sizes):
    """Default sizes of studies that need long trainings: those of the demonstration."""

    pictures: int = Field(default=6000, ge=8)
    """Number of pictures drawn for training."""
    steps: int = Field(default=1000, ge=1)
    """Steps of training each adapter."""
    scenes: int = Field(default=200, ge=1)
    """Held-out scenes evaluated, each in every wording."""


SIZES: dict[StudyName, type[Sizes]] = {"real": LongSizes}
"""Default sizes of the studies that do not use `Sizes()`."""


class StudyRequest(Request):
    """Answer one of the paper's open questions on the synthetic shapes benchmark."""

    name: StudyName
    """The study."""
    output: OptionalPathText = None
    """Folder of all studies; default: runs/studies."""
    sizes: Sizes = Sizes()
    """Sizes of trainings and evaluations."""
    quick: bool = False
    """Take the sizes of a trial, in which nothing is learned, but for those that are given."""
    llms: OptionalPathText = None
    """YAML file of LLMs for `scale`, as infra/recipes/scale.yaml; default: the embedded ones."""
    llm: str | None = None
    """Folder, GGUF file or name of the LLM that `prompts`, `encodings`, `stability`, `closed` or `real` is about;
    results on each LLM are kept apart. Default: the embedded one; for `real`, SmolLM2-135M-Instruct where this machine
    has it."""
    template: str | None = None
    """With an LLM of your own: text around its captions, which holds {caption} once, or chat. Default: {caption}. An
    LLM's results with another template take the place of those it has."""

    @model_validator(mode="after")
    def check_llm(self) -> Self:
        if self.llm is not None and self.name not in ON_ANY_LLM:
            raise ValueError(f"llm goes with {', '.join(ON_ANY_LLM)} alone, found {self.name}")
        if self.template is not None and self.llm is None and self.name != "real":
            raise ValueError(
                "template goes with an llm of your own: the embedded one was trained with its own template"
            )
        return self
