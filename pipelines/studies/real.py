"""An LLM as it comes, which nobody trained for this: the paper's settings, and settings for such LLMs."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from llmdiff.studies.estimates import Estimate, survived
from llmdiff.studies.readings import StudyReading
from llmdiff.training.checkpoints.state import EMA_FOLDER
from pipelines.studies import compare
from pipelines.studies.compare import CAPTIONS, LABELS, MAIN, pooled
from pipelines.studies.outcome import Outcome
from pipelines.studies.scoring import StudyModel
from pipelines.studies.words import beside, brief, quoted, sentences, summary
from pipelines.studies.workspace import BASE, PAPER, Shares, Variant, Workspace, stacked

matplotlib.use("Agg")
ADAPTED = "adapted"
"""End of the names of variants whose adapter and training are set for LLMs as they come."""
ADAPTER, LAYOUT = (("standardise", True), ("refiner", 2)), 2
"""Settings of those variants: of `AdapterSettings`, and steps of layout pre-training for each step."""
TRAINING = (("learning_rate", 1e-3), ("timestep_exponent", 1.0))
"""Settings of those variants: of `TrainSettings`."""
SHARE = 0.4
"""Share of the steps that takes about as long with all layout pre-training as all steps do without, on shapes."""
UNTAUGHT, IN_BUDGET = "without layout pre-training", "in the budget"

MEAN = "mean of normalised layers"
RECOVERED = tuple(f"{fact} recovered, {LABELS[wording]}" for fact, wording in product(MAIN, CAPTIONS))
"""Columns of a table that hold what is recovered."""

Curves = dict[int, dict[str, Shares]]
"""Verdicts by steps of training and variant, the last step's with the base's."""


def study(workspace: Workspace) -> Outcome:
    """Train every variant on the LLM, and score what the first training of the last one drew on the way, too."""
    *_, last = chosen = variants(workspace)
    steps = {variant.name: dict(variant.training).get("steps", workspace.sizes.steps) for variant in chosen}
    curves: Curves = {step: {} for step in marks(workspace.sizes.steps)}
    for step, found in curves.items():
        for variant in chosen if step == workspace.sizes.steps else [replace(last, seeds=1)]:
            found[variant.name] = shares_after(workspace, variant, step)
    best, curve = best_of(curves[workspace.sizes.steps]), points(curves, steps)
    table = rows(curves, best)
    return Outcome(
        rows=table,
        summary=summary(table[1:], best, columns=RECOVERED),
        figure=plot(curve),
        finding=findings(table, best, workspace.llm.name),
        facts={"curve": curve},
    )


def variants(workspace: Workspace) -> list[Variant]:
    """Return the base, the paper's adapter, and settings for LLMs as they come on two readings and the base's CLIP."""
    llm = workspace.llm
    return [
        BASE,
        Variant(name=PAPER.name, reading=llm.reading(), seeds=1),
        adapted(PAPER.name, llm.reading(), workspace.sizes.steps),
        replace(adapted("CLIP", StudyReading(kind="base"), workspace.sizes.steps), seeds=1),
        without_layout(mean := adapted(MEAN, llm.reading(reading="norm_mean"), workspace.sizes.steps)),
        replace(in_budget(mean, workspace.sizes.steps), seeds=workspace.sizes.seeds + 1),
        mean,
    ]


def adapted(name: str, reading: StudyReading, steps: int) -> Variant:
    """Return a reading under settings for LLMs as they come; what is scored on the way is kept."""
    half = marks(steps)[0]
    training = {
        **dict(TRAINING),
        "checkpoint_every": half,
        "keep_checkpoints": math.ceil(steps / half),
        "layout_steps": LAYOUT * steps,
    }
    return Variant(name=f"{name}, {ADAPTED}", reading=reading, adapter=ADAPTER, training=tuple(training.items()))


def without_layout(variant: Variant) -> Variant:
    """Return a variant that learns from the U-Net alone."""
    training = tuple(item for item in variant.training if item[0] != "layout_steps")
    return replace(variant, name=f"{variant.name}, {UNTAUGHT}", training=training)


def in_budget(variant: Variant, steps: int) -> Variant:
    """Return a variant that takes about as long as training alone: fewer steps after as much layout pre-training."""
    fewer = max(1, round(SHARE * steps))
    training = {**dict(variant.training), "steps": fewer, "checkpoint_every": fewer}
    return replace(variant, name=f"{variant.name}, {IN_BUDGET}", training=tuple(training.items()))


def marks(steps: int) -> list[int]:
    """Return the steps after which pictures are scored: half of them, and all."""
    return sorted({max(1, steps // 2), steps})


def shares_after(workspace: Workspace, variant: Variant, step: int) -> Shares:
    """Return the verdicts on a variant's pictures after so many steps of its training."""
    if step == workspace.sizes.steps:
        return workspace.shares(variant)
    models = [after(workspace.model(variant, seed), step) for seed in workspace.seeds(variant)]
    return stacked([workspace.verdicts(f"{variant.name} after {step} steps", model) for model in models])


def after(model: StudyModel, step: int) -> StudyModel:
    """Return the model as it was after a step of its training: a checkpoint's averaged weights."""
    assert model.adapter is not None
    folder = Path(model.adapter).parent / "checkpoints" / f"step-{step:08d}" / EMA_FOLDER
    return model.model_copy(update={"adapter": str(folder)})


def recovered(base: Shares, found: Shares, fact: str, *wordings: str) -> Estimate:
    """Return how much of what the base loses by a wording comes back: 1 means that the wording no longer matters.

    (found - base on the wording) / (base on its own template - base on the wording), of several wordings their mean.
    """
    return survived(pooled(base, fact, wordings), pooled(found, fact, wordings), base["template"][fact])


def best_of(found: dict[str, Shares]) -> str:
    """Return the variant whose pictures are right most often, in both facts together."""
    own = [name for name in found if name != BASE.name]
    return max(own, key=lambda name: sum(pooled(found[name], fact).mean() for fact in MAIN))


def rows(curves: Curves, best: str) -> list[dict[str, Any]]:
    """Return a row a variant: shares, and what is recovered, by wording; then rows of the steps on the way."""
    *earlier, last = curves
    base = curves[last][BASE.name]
    table = compare.rows(curves[last], best)
    for row, (name, shares) in zip(table, curves[last].items(), strict=True):
        for column, (fact, wording) in zip(RECOVERED, product(MAIN, CAPTIONS), strict=True):
            row[column] = None if name == BASE.name else recovered(base, shares, fact, wording)
        for step, fact in product(earlier, MAIN):
            then = curves[step].get(name)
            row[f"{fact} recovered after {step} steps"] = (
                None if then is None else recovered(base, then, fact, *CAPTIONS)
            )
    return table


def points(curves: Curves, steps: dict[str, int]) -> list[dict[str, Any]]:
    """Return what is recovered by variant, steps, fact and wording; `steps` has each variant's own number of steps."""
    base = curves[max(curves)][BASE.name]
    return [
        {"variant": name, "steps": min(step, steps[name]), "fact": fact, "wording": wording, "recovered": value}
        for step, found in curves.items()
        for name, shares in found.items()
        if name != BASE.name
        for fact in MAIN
        for wording in CAPTIONS
        for value in [recovered(base, shares, fact, wording)]
    ]


def findings(table: list[dict[str, Any]], best: str, llm: str) -> list[str]:
    """Say which variant is best, what it recovers, and whether the paper's formula earns its place."""
    row = next(row for row in table if row["variant"] == best)
    parts = []
    for wording in CAPTIONS:
        figures = [f"{brief(row[f'{fact} recovered, {LABELS[wording]}'])} in {fact}" for fact in MAIN]
        parts.append(f"{' and '.join(figures)} on {LABELS[wording]}")
    return [
        f"Of {llm}, {quoted(best)} is best: of what the base loses by a wording it recovers {', and '.join(parts)}.",
        *sentences(table, best, without=[BASE.name]),
        formula(table, best),
    ]


def formula(table: list[dict[str, Any]], best: str) -> str:
    """Say whether the score difference earns its place: with the paper's adapter, and with one for such LLMs."""
    found = {row["variant"]: row for row in table}
    own = found[PAPER.name][f"relation recovered, {LABELS['natural']}"]
    parts = [f"with the paper's adapter it recovers {brief(own)} of the relation on {LABELS['natural']}"]
    with_settings = found.get(f"{PAPER.name}, {ADAPTED}")
    if with_settings is not None and with_settings["variant"] != best:
        parts.append(f"adapted it is, beside the best: {beside(with_settings, best)}")
    earns = "earns" if best.startswith(PAPER.name) else "does not earn"
    return f"So here the paper's formula {earns} its place: {'; '.join(parts)}."


def plot(curve: list[dict[str, Any]]) -> Figure:
    """Plot what is recovered over steps: a row a fact, a column a wording, a colour a variant."""
    names = list(dict.fromkeys(point["variant"] for point in curve))
    figure = Figure(figsize=(10, 6.5), layout="constrained")
    axes = figure.subplots(len(MAIN), len(CAPTIONS), sharex=True, sharey=True)
    for line, fact in zip(axes, MAIN, strict=True):
        for axis, wording in zip(line, CAPTIONS, strict=True):
            for index, name in enumerate(names):
                chosen = [p for p in curve if (p["variant"], p["fact"], p["wording"]) == (name, fact, wording)]
                values = [point["recovered"].value for point in chosen]
                steps = [point["steps"] for point in chosen]
                axis.plot(steps, values, marker="o", markersize=3, label=name, color=f"C{index}")
            axis.axhline(1, color="grey", linewidth=0.6)
            axis.axhline(0, color="grey", linewidth=0.6)
            axis.set_title(f"{fact}, {LABELS[wording]}", fontsize=10)
    for axis in axes[-1]:
        axis.set_xlabel("steps", fontsize=9)
    figure.supylabel("share of what the base loses that is recovered", fontsize=9)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8)
    return figure
