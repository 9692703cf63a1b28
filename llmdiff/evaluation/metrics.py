"""Scores of single pictures: a registry of metrics, each called with pictures and their prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from llmdiff.evaluation.embed import Embedder, Texts, load_embedder
from llmdiff.evaluation.prompts import Prompt
from llmdiff.shapes.evaluator import FACTS, score_facts
from llmdiff.shapes.scene import SIDE

Scores = dict[str, np.ndarray]
"""Scores ``(picture,)`` by column. A bool column ``*_cut`` says which prompts were longer than the model reads."""


class Metric(Protocol):
    """Scores pictures one by one; more is better, except for complexity."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the scores, the main one first."""

    def __call__(self, images: Sequence[Image.Image], prompts: Sequence[Prompt]) -> Scores:
        """Return the scores of RGB pictures that were drawn from these prompts."""


class SigLIPScore:
    """How well a picture fits its prompt by SigLIP (arXiv 2303.15343): ``100 cos``, and the model's own probability.

    The paper gives figures from 5.8 to 8.5 and no formula; they are of the size of 100 times SigLIP's cosines, which
    lie near 0.1 where its probabilities spread over 0 to 1. So the cosine is the score here.
    """

    name = "siglip"

    def __init__(self, embedder: Embedder) -> None:
        self.embedder = embedder
        self.columns = (self.name, f"{self.name}_probability")

    def texts(self, prompts: Sequence[Prompt]) -> list[str]:
        return [prompt.text for prompt in prompts]

    @torch.inference_mode()
    def __call__(self, images: Sequence[Image.Image], prompts: Sequence[Prompt]) -> Scores:
        cosines, texts = _cosines(self.embedder, images, self.texts(prompts))
        probability = torch.sigmoid(self.embedder.logits(cosines))
        scores = dict(zip(self.columns, (_array(100 * cosines), _array(probability)), strict=True))
        return {**scores, f"{self.name}_cut": texts.cut}


class SigLIP2Score(SigLIPScore):
    """How well a picture fits its prompt by SigLIP 2 (arXiv 2502.14786), which was trained on lower-case text."""

    name = "siglip2"

    def texts(self, prompts: Sequence[Prompt]) -> list[str]:
        return [prompt.text.lower() for prompt in prompts]


class CLIPScore:
    """``100 max(cos, 0)`` between CLIP's vectors of picture and prompt (arXiv 2104.08718, as torchmetrics has it)."""

    columns = ("clip",)

    def __init__(self, embedder: Embedder) -> None:
        self.embedder = embedder

    def __call__(self, images: Sequence[Image.Image], prompts: Sequence[Prompt]) -> Scores:
        cosines, texts = _cosines(self.embedder, images, [prompt.text for prompt in prompts])
        return {"clip": _array(100 * cosines.clamp(min=0)), "clip_cut": texts.cut}


class CLIPIQA:
    """CLIP-IQA (arXiv 2207.12396): how much nearer a picture is to the first of two phrases, from 0 to 1.

    Phrases and scale are torchmetrics'. The prompt plays no part.
    """

    phrases = {
        "quality": ("Good photo.", "Bad photo."),
        "complexity": ("Complex photo.", "Simple photo."),
        "beauty": ("Beautiful photo.", "Ugly photo."),
    }
    columns = tuple(phrases)

    def __init__(self, embedder: Embedder) -> None:
        self.embedder = embedder

    @cached_property
    def anchors(self) -> Tensor:
        """The phrases' vectors ``(phrase, width)``."""
        return self.embedder.texts([phrase for pair in self.phrases.values() for phrase in pair]).vectors

    @torch.inference_mode()
    def __call__(self, images: Sequence[Image.Image], prompts: Sequence[Prompt]) -> Scores:
        likeness = 100 * self.embedder.images(images) @ self.anchors.T  # (image, phrase)
        nearer = likeness.unflatten(1, (-1, 2)).softmax(-1)[..., 0]  # (image, pair)
        return {name: _array(nearer[:, i]) for i, name in enumerate(self.columns)}


class FactsScore:
    """Whether each kind of stated fact holds in pictures of the synthetic shapes benchmark: 1 or 0."""

    columns = ("binding", *(fact for fact in FACTS if fact != "binding"))

    def __call__(self, images: Sequence[Image.Image], prompts: Sequence[Prompt]) -> Scores:
        scenes = [prompt.scene for prompt in prompts if prompt.scene is not None]
        if len(scenes) < len(prompts):
            raise ValueError("facts: expected prompts about scenes of the synthetic shapes benchmark, found others")
        if odd := [image.size for image in images if image.size != (SIDE, SIDE)]:
            raise ValueError(f"facts: expected pictures of {SIDE} x {SIDE} pixels, found {odd[0][0]} x {odd[0][1]}")
        verdicts = score_facts([np.asarray(image) for image in images], scenes)
        return {name: verdicts[name] for name in self.columns}


LARGE = "openai/clip-vit-large-patch14"
_ON_MODELS: dict[str, tuple[Callable[[Embedder], Metric], str]] = {
    "siglip": (SigLIPScore, "google/siglip-so400m-patch14-384"),
    "siglip2": (SigLIP2Score, "google/siglip2-so400m-patch14-384"),
    "clip": (CLIPScore, LARGE),
    "clip-iqa": (CLIPIQA, LARGE),
}
METRICS = ("facts", *_ON_MODELS)


def load_metric(spec: str) -> Metric:
    """Return a metric by name, or by ``name=model`` with the folder or hub name of another model than the usual one."""
    name, model = split_spec(spec)
    if name == "facts":
        return FactsScore()
    if name not in _ON_MODELS:
        raise ValueError(f"metric {spec}: expected one of {', '.join(METRICS)}, found {name!r}")
    make, usual = _ON_MODELS[name]
    return make(load_embedder(model or usual))


def split_spec(spec: str) -> tuple[str, str]:
    """Return name and model of ``name=model``; the model is empty where there is none."""
    name, _, model = spec.partition("=")
    return name.strip(), model.strip()


def _cosines(embedder: Embedder, images: Sequence[Image.Image], texts: Sequence[str]) -> tuple[Tensor, Texts]:
    """Return cosines ``(picture,)`` between pictures and their own texts."""
    found = embedder.texts(texts)
    return (embedder.images(images) * found.vectors).sum(-1), found


def _array(values: Any) -> np.ndarray:
    return values.double().cpu().numpy()
