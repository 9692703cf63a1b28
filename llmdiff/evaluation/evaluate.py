"""Evaluations: one model's pictures of prompts, and their scores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from llmdiff.evaluation.bootstrap import interval, mean_interval, unit_means
from llmdiff.evaluation.gallery import Gallery, Model
from llmdiff.evaluation.metrics import Metric, Scores, load_metric
from llmdiff.evaluation.prompts import Prompt
from llmdiff.image_files import open_rgb
from llmdiff.sampling import Sampling, draw, to_uint8
from llmdiff.shapes.captions import WORDINGS
from llmdiff.shapes.evaluator import FACTS, score_facts


@dataclass(frozen=True)
class Evaluation:
    """One model's pictures, arrays ``(height, width, 3)`` uint8 or paths, and their scores, ``(prompt,)`` each."""

    prompts: Sequence[Prompt]
    pictures: Sequence[Any] | np.ndarray
    scores: Scores

    @classmethod
    def joined(cls, parts: Sequence[Evaluation]) -> Evaluation:
        """Return one evaluation of all prompts from evaluations of parts of them, whose pictures are arrays."""
        scores = {column: np.concatenate([part.scores[column] for part in parts]) for column in parts[0].scores}
        prompts = [prompt for part in parts for prompt in part.prompts]
        return cls(prompts, np.concatenate([part.pictures for part in parts]), scores)

    def sample(self, column: str, category: str | None = None) -> np.ndarray:
        """Return the mean score of each unit, ``(unit,)`` in ascending order of units; None is over all categories."""
        rows = [i for i, prompt in enumerate(self.prompts) if category in (None, prompt.category)]
        return unit_means(self.scores[column][rows], [self.prompts[i].unit for i in rows])

    def categories(self) -> list[str]:
        """Return the categories in the order of their first prompts."""
        return list(dict.fromkeys(prompt.category for prompt in self.prompts))

    def table(self) -> dict[str, dict[str, float]]:
        """Return shares of the synthetic shapes benchmark's prompts whose facts hold, ``table[wording][fact]``."""
        return {w: {f: float(self.sample(f, w).mean()) for f in FACTS} for w in self._wordings()}

    def intervals(self) -> dict[str, dict[str, tuple[float, float]]]:
        """Return the 95 % bootstrap interval of each share in `table`."""
        return {w: {f: mean_interval(self.sample(f, w)) for f in FACTS} for w in self._wordings()}

    def _wordings(self) -> list[str]:
        return [wording for wording in WORDINGS if wording in self.categories()]


def score_model(
    model: Model,
    prompts: Sequence[Prompt],
    metrics: Sequence[str],
    *,
    folder: Path,
    sampling: Sampling | None = None,
    batch_size: int = 4,
    progress: Callable[[int], None] | None = None,
) -> Evaluation:
    """Draw the pictures of prompts that a model's folder lacks, and return the scores of all of them.

    Args:
        model: the model that draws.
        prompts: those of `held_out_prompts` or `read_prompts`.
        metrics: specs of `load_metric`: "facts", "siglip", "clip=folder", ...; ``.sample(column)`` of the result then
            has a number a prompt, and the main column of "siglip" is "siglip".
        folder: folder of all pictures ever drawn.
        sampling: the same for all models that are to be compared.
        batch_size: pictures drawn, and scored, at once.
        progress: called with the number of pictures done, once when drawn and once when scored.
    """
    loaded = [load_metric(spec) for spec in metrics]  # loaded before a picture is drawn, to fail early
    paths = Gallery(folder, model, sampling or Sampling()).draw(prompts, batch_size, progress)
    return Evaluation(prompts, paths, score_pictures(paths, prompts, loaded, batch_size, progress))


def score_pictures(
    paths: Sequence[Path],
    prompts: Sequence[Prompt],
    metrics: Sequence[Metric],
    batch_size: int = 16,
    progress: Callable[[int], None] | None = None,
) -> Scores:
    """Return the scores of pictures by several metrics, ``(picture,)`` by column."""
    starts = range(0, len(paths), batch_size)
    batches = ([open_rgb(path) for path in paths[start : start + batch_size]] for start in starts)
    return score_batches(batches, prompts, metrics, progress)


def score_batches(
    batches: Iterable[Sequence[Image.Image]],
    prompts: Sequence[Prompt],
    metrics: Sequence[Metric],
    progress: Callable[[int], None] | None = None,
) -> Scores:
    """Return the scores of pictures that come in batches, without keeping the pictures."""
    scores: list[Scores] = []
    done = 0
    for images in batches:
        found: Scores = {}
        for metric in metrics:
            found |= metric(images, prompts[done : done + len(images)])
        scores.append(found)
        done += len(images)
        if progress is not None:
            progress(len(images))
    return {column: np.concatenate([batch[column] for batch in scores]) for column in scores[0]}


def evaluate(
    pipe: Any,
    prompts: Sequence[Prompt],
    sampling: Sampling | None = None,
    *,
    batch_size: int = 50,
    progress: Callable[[int], None] | None = None,
) -> Evaluation:
    """Draw prompts about scenes with a loaded pipeline, keep the pictures in memory, and find which facts hold.

    Args:
        pipe: called as ``pipe(texts, generator=[...], output_type="np", ...)``, as every diffusers pipeline is.
        prompts: what to draw; a prompt's noise depends on its seed alone, not on its batch.
        sampling: how they are drawn; None is 20 steps with guidance 3.
        batch_size: prompts drawn at once.
        progress: called with the number of prompts done after each batch.
    """
    pictures = []
    texts, seeds = [prompt.text for prompt in prompts], [prompt.seed for prompt in prompts]
    for batch in draw(pipe, texts, seeds, sampling or Sampling(), batch_size):
        pictures.append(to_uint8(batch))
        if progress is not None:
            progress(len(batch))
    drawn = np.concatenate(pictures)
    scenes = [prompt.scene for prompt in prompts if prompt.scene is not None]
    return Evaluation(prompts, drawn, score_facts(list(drawn), scenes))


def gap_recovered(base: Evaluation, adapter: Evaluation, fact: str, wording: str) -> dict[str, Any]:
    """Return how much of what the base loses by a wording the adapter brings back, with its 95 % interval.

    (adapter - base on the wording) / (base on its own template - base on the wording): 1 means that the wording no
    longer matters. Prompts are resampled together, since all three samples are of the same scenes and seeds.
    """

    def share(own: np.ndarray, lost: np.ndarray, found: np.ndarray) -> np.ndarray:
        gap = own - lost
        return np.divide(found - lost, gap, out=np.full_like(gap, np.nan), where=gap > 0)

    samples = base.sample(fact, "template"), base.sample(fact, wording), adapter.sample(fact, wording)
    value = share(*(np.atleast_1d(sample.mean()) for sample in samples))
    return {"value": float(value[0]), "interval": interval(share, *samples)}
