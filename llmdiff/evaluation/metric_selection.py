"""Choose the metrics of an evaluation, and check them before anything is loaded."""

from __future__ import annotations

from llmdiff.evaluation.distances import DISTANCES
from llmdiff.evaluation.metrics import METRICS, split_spec

WORLD_METRICS = ("facts",)
FILE_METRICS = ("siglip", "siglip2", "clip", "clip-iqa")


def choose_metrics(metrics: list[str] | None, prompts: str | None, references: str | None) -> list[str]:
    """Return the metrics asked for, or the usual ones; ValueError for unknown ones and for distances to nothing."""
    if metrics is None:
        metrics = [*(WORLD_METRICS if prompts is None else FILE_METRICS), *(["cmmd"] if references else [])]
    names = [split_spec(spec)[0] for spec in metrics]
    if not names:
        raise ValueError(f"metrics: expected at least one of {', '.join((*METRICS, *DISTANCES))}")
    for name in names:
        if name not in (*METRICS, *DISTANCES):
            raise ValueError(f"metric: expected one of {', '.join((*METRICS, *DISTANCES))}, found {name!r}")
        if names.count(name) > 1:
            raise ValueError(f"metric {name}: expected once, found {names.count(name)} times")
        if name in DISTANCES and references is None:
            raise ValueError(f"metric {name}: expected a folder of reference pictures, found none")
    if references is not None and not set(names) & set(DISTANCES):
        raise ValueError(f"references {references}: expected a metric that uses them: {' or '.join(DISTANCES)}")
    if "facts" in names and prompts is not None:
        raise ValueError(f"metric facts: expected prompts of the synthetic shapes benchmark, found {prompts}")
    if all(name in DISTANCES for name in names):
        raise ValueError(f"metrics: expected at least one that scores single pictures: {', '.join(METRICS)}")
    return metrics
