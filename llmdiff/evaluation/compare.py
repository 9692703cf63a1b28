"""Comparisons of a model with baselines on the same prompts and seeds: means, intervals, paired differences."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llmdiff.evaluation.bootstrap import mean_interval, percentiles
from llmdiff.evaluation.distances import cmmd, frechet, unit_weights
from llmdiff.evaluation.embed import Embedder, load_embedder
from llmdiff.evaluation.evaluate import Evaluation
from llmdiff.evaluation.metrics import LARGE, split_spec
from llmdiff.image_files import open_rgb

WITHOUT_VALUE = ("complexity",)
"""Columns in which more is not better."""
FEWEST = 10
"""Units below which an interval says too little for a verdict."""
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


def compare(evaluations: Mapping[str, Evaluation], columns: Sequence[str]) -> dict[str, Any]:
    """Return, by column, each model's mean and the first model's paired difference from each other model.

    Returns:
        ``{"scores": {column: {model: entry}}, "differences": {column: {baseline: entry}}}``; an entry has "mean",
        "interval" (95 %, over units; None where there is one unit), "n" (units) and, where there are several
        categories, "by_category"; a difference has a "verdict" too.
    """
    subject, *baselines = evaluations
    _check_paired(evaluations)
    return {
        "scores": {
            column: {name: _by_category(_mean, column, each) for name, each in evaluations.items()}
            for column in columns
        },
        "differences": {
            column: {
                name: _by_category(_difference(column), column, evaluations[subject], evaluations[name])
                for name in baselines
            }
            for column in columns
        },
    }


def _check_paired(evaluations: Mapping[str, Evaluation]) -> None:
    prompts = [list(each.prompts) for each in evaluations.values()]
    assert all(other == prompts[0] for other in prompts), "models are compared on the same prompts and seeds"


def _by_category(measure: Callable[..., dict[str, Any]], column: str, *evaluations: Evaluation) -> dict[str, Any]:
    found = measure(*(each.sample(column) for each in evaluations))
    categories = evaluations[0].categories()
    if len(categories) > 1:
        found["by_category"] = {
            category: measure(*(each.sample(column, category) for each in evaluations)) for category in categories
        }
    return found


def _mean(sample: np.ndarray) -> dict[str, Any]:
    bounds = mean_interval(sample) if len(sample) > 1 else None
    return {"mean": float(sample.mean()), "interval": bounds, "n": len(sample)}


def _difference(column: str) -> Callable[[np.ndarray, np.ndarray], dict[str, Any]]:
    def difference(subject: np.ndarray, baseline: np.ndarray) -> dict[str, Any]:
        found = _mean(subject - baseline)
        said = verdict(found["interval"], found["n"])
        said = {"better": "higher", "worse": "lower"}.get(said, said) if column in WITHOUT_VALUE else said
        return {**found, "verdict": said}

    return difference


def verdict(bounds: tuple[float, float] | None, n: int, less_is_better: bool = False) -> str:
    """Return what an interval of a difference shows: "better", "worse", "no difference shown", or "too few prompts"."""
    if bounds is None or n < FEWEST:
        return "too few prompts"
    low, high = bounds
    if low <= 0 <= high:
        return "no difference shown"
    return "better" if (low > 0) != less_is_better else "worse"


def compare_with_references(
    evaluations: Mapping[str, Evaluation], spec: str, references: Path, progress: Callable[[int], None] | None = None
) -> dict[str, Any]:
    """Return a distance of each model's pictures to references, "fid" or "cmmd", as ``name`` or ``name=model``.

    CMMD has intervals, over prompts with the references as they are; resamples have pictures twice, which moves every
    distance up, so that mean shift is taken off. For FID, where it is large against what is measured, there are none.
    """
    name, model = split_spec(spec)
    embedder = load_distance(spec)
    encode = embedder.features if name == "fid" else embedder.images
    real = _encoded(encode, reference_files(references), progress)
    drawn = {each: _encoded(encode, list(evaluation.pictures), progress) for each, evaluation in evaluations.items()}
    first = next(iter(evaluations.values()))
    found = {"model": model or LARGE, "references": len(real), "pictures": len(first.pictures)}
    if name == "fid":
        return {**found, "values": {each: {"value": frechet(vectors, real)} for each, vectors in drawn.items()}}
    return {**found, **_cmmd(drawn, real, [prompt.unit for prompt in first.prompts])}


def load_distance(spec: str) -> Embedder:
    """Return the model of a distance; ValueError where it can't be loaded, and for FID without one."""
    name, model = split_spec(spec)
    if name == "fid" and not model:
        raise ValueError(
            "fid: expected fid=<vision model>, found no model: Inception's weights are published as pickle, "
            "which is not loaded"
        )
    return load_embedder(model or LARGE, with_text=False)


def _cmmd(drawn: Mapping[str, np.ndarray], real: np.ndarray, units: Sequence[int]) -> dict[str, Any]:
    """Return each model's CMMD, and the first model's differences from the others, each with its interval."""
    weights, n = unit_weights(units), len(set(units))
    values = {each: float(cmmd(vectors, real)[0]) for each, vectors in drawn.items()}
    resampled = {each: cmmd(vectors, real, weights) for each, vectors in drawn.items()}
    subject, *baselines = drawn

    def entry(value: float, samples: np.ndarray) -> dict[str, Any]:
        return {"value": value, "interval": percentiles(samples - samples.mean() + value) if n > 1 else None, "n": n}

    differences = {}
    for each in baselines:
        found = entry(values[subject] - values[each], resampled[subject] - resampled[each])
        differences[each] = {**found, "verdict": verdict(found["interval"], n, less_is_better=True)}
    return {"values": {each: entry(values[each], resampled[each]) for each in drawn}, "differences": differences}


def reference_files(folder: Path) -> list[Path]:
    """Return the pictures below a folder; FileNotFoundError or ValueError where there are none."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder of reference pictures")
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in PICTURES)
    if not files:
        raise ValueError(f"{folder}: expected pictures ({', '.join(PICTURES)}), found none")
    return files


def _encoded(
    encode: Callable[..., Any], files: Sequence[Path], progress: Callable[[int], None] | None, batch: int = 16
) -> np.ndarray:
    """Return the vectors of pictures, ``(picture, width)`` float32."""
    found = []
    for start in range(0, len(files), batch):
        images = [open_rgb(file) for file in files[start : start + batch]]
        found.append(encode(images).cpu().numpy())
        if progress is not None:
            progress(len(images))
    return np.concatenate(found)
