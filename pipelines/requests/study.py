"""What a study is asked for, and how large it is."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pipelines.requests.base import OptionalPathText, Request

StudyName = Literal["prompts", "encodings", "pathways", "weights", "stability", "closed", "scale", "latency", "probe"]


class Sizes(Request):
    """How large the studies are; the same for all variants of one."""

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
