"""Pictures of one model, from the same prompts and seeds as any other's, and what the evaluator finds in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict

from llmdiff.encoder import Encoder
from llmdiff.evaluation import Evaluation, evaluate
from llmdiff.pipeline import adapter_of
from llmdiff.sampling import Sampling, load_pipeline
from llmdiff.shapes import DIFFUSION
from llmdiff.shapes.captions import WORDINGS
from llmdiff.shapes.evaluator import FACTS
from llmdiff.studies.readings import StudyReading
from pipelines.runtime.progress import advance, quieten_loading
from pipelines.runtime.stage import task


class StudyModel(BaseModel):
    """A model whose pictures a study scores, and how it draws them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    adapter: str | None
    """Folder of the adapter; None is the base model as it is."""
    reading: StudyReading | None
    """Reading that encodes prompts."""
    student: str | None = None
    """Folder of a student that stands in for the reading."""
    weights: tuple[float, float] | None = None
    """``a1`` and ``a2`` in place of the learned ones of every layer."""
    steps: int
    guidance: float


@task("score pictures")
def score(model: StudyModel, prompts: list[Any]) -> dict[str, dict[str, list[float]]]:
    """Return verdicts by wording and fact, a number a scene, in the prompts' order."""
    evaluation = drawn(model, prompts)
    return {wording: {fact: evaluation.sample(fact, wording).tolist() for fact in FACTS} for wording in WORDINGS}


def drawn(model: StudyModel, prompts: list[Any]) -> Evaluation:
    """Draw the pictures, and return them with their verdicts."""
    with torch.no_grad():
        sampling = Sampling(steps=model.steps, guidance=model.guidance)
        return evaluate(load(model), prompts, sampling, progress=advance)


def load(model: StudyModel) -> Any:
    """Return the diffusers pipeline of a model."""
    quieten_loading()
    encoder: Any = None
    if model.reading is not None and model.reading.kind != "base":
        encoder = model.reading.load(str(DIFFUSION))
    if model.student is not None:
        from llmdiff.studies.student import StudentEncoder

        assert isinstance(encoder, Encoder)  # a student's teacher is an LLM
        encoder = StudentEncoder.load(Path(model.student), encoder)
    pipe = load_pipeline(str(DIFFUSION), model.adapter, encoder)
    if model.weights is not None:
        force_weights(pipe, model.weights)
    return pipe


def force_weights(pipe: Any, weights: tuple[float, float]) -> None:
    """Put ``a1`` and ``a2`` in place of the learned weights, and 0 for ``b1`` and ``b2``, in every layer."""
    for layer in adapter_of(pipe).layers.values():
        layer.a.data.copy_(torch.tensor(weights))  # type: ignore[operator]
        layer.b.data.zero_()  # type: ignore[operator]
