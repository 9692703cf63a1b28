"""An LLM as it comes against the embedded one: readings, settings of the adapter for such LLMs, steps of training."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from llmdiff.studies.estimates import Estimate, difference, share, survived
from llmdiff.training.checkpoint import EMA_FOLDER
from pipelines.studies.compare import CAPTIONS, LABELS, MAIN, pooled, sentences
from pipelines.studies.encodings import two_thirds
from pipelines.studies.llm import EMBEDDED, StudyLLM
from pipelines.studies.outcome import Outcome
from pipelines.studies.scoring import StudyModel
from pipelines.studies.workspace import BASE, PAPER, Shares, Variant, Workspace, stacked

matplotlib.use("Agg")
OTHER = "embedded LLM"
ADAPTED = "adapted"
"""What a variant's name ends with where adapter and training are set for LLMs as they come."""
ADAPTER, RATE = (("standardise", True), ("refiner", 2)), 1e-3
"""Those settings: of `AdapterSettings`, and the learning rate."""

Curves = dict[int, dict[str, Shares]]
"""Verdicts by steps of training and variant, the last step's with the base's."""


def study(workspace: Workspace) -> Outcome:
    """Trains every variant on the LLM, and scores what it drew on the way, too."""
    curves: Curves = {step: {} for step in marks(workspace.sizes.steps)}
    for variant in variants(workspace):
        for step in curves:
            if variant.reading is not None or step == workspace.sizes.steps:
                curves[step][variant.name] = shares_after(workspace, variant, step)
    curve = points(curves)
    return Outcome(
        rows=rows(curves), figure=plot(curve), finding=findings(curves, workspace.llm.name), facts={"curve": curve}
    )


def variants(workspace: Workspace) -> list[Variant]:
    """The base, the embedded LLM's score difference, and the LLM's readings."""
    llm, half = workspace.llm, marks(workspace.sizes.steps)[0]
    training = (("checkpoint_every", half), ("keep_checkpoints", math.ceil(workspace.sizes.steps / half)))
    found = [
        BASE,
        Variant(name=OTHER, reading=EMBEDDED.reading(), training=training),
        Variant(name=PAPER.name, reading=llm.reading(), training=training),
    ]
    for name, reading in readings(llm).items():
        adapted = (*training, ("learning_rate", RATE))
        variant = Variant(name=f"{name}, {ADAPTED}", reading=llm.reading(**reading), adapter=ADAPTER, training=adapted)
        found.append(variant)
    return found


def readings(llm: StudyLLM) -> dict[str, dict[str, Any]]:
    """Settings of the encoder by the reading's name."""
    deep = two_thirds(llm)
    return {
        PAPER.name: {},
        "mean of normalised layers": {"reading": "norm_mean"},
        f"layer {deep} of {llm.blocks}": {"reading": f"layer:{deep}"},
    }


def marks(steps: int) -> list[int]:
    """Return the steps after which pictures are scored: a half of them, and all."""
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


def rows(curves: Curves) -> list[dict[str, Any]]:
    """A line a variant: shares, and what is recovered, by wording; and what had been on the way, over both wordings."""
    *earlier, last = curves
    base = curves[last][BASE.name]
    table: list[dict[str, Any]] = []
    for name, shares in curves[last].items():
        row: dict[str, Any] = {"variant": name, "trainings": len(shares["natural"]["binding"])}
        pairs = [(fact, wording) for fact in MAIN for wording in CAPTIONS]
        row |= {f"{fact}, {LABELS[wording]}": share(shares[wording][fact]) for fact, wording in pairs}
        for fact, wording in pairs:
            column = f"{fact} recovered, {LABELS[wording]}"
            row[column] = None if name == BASE.name else recovered(base, shares, fact, wording)
        for step in earlier:
            for fact in MAIN:
                then = curves[step].get(name)
                column = f"{fact} recovered after {step} steps"
                row[column] = None if then is None else recovered(base, then, fact, *CAPTIONS)
        table.append(row)
    return table


def points(curves: Curves) -> list[dict[str, Any]]:
    """What is recovered by variant, steps, fact and wording."""
    base = curves[max(curves)][BASE.name]
    return [
        {"variant": name, "steps": step, "fact": fact, "wording": wording, "recovered": value}
        for step, found in curves.items()
        for name, shares in found.items()
        if name != BASE.name
        for fact in MAIN
        for wording in CAPTIONS
        for value in [recovered(base, shares, fact, wording)]
    ]


def findings(curves: Curves, llm: str) -> list[str]:
    """What the paper's formula and the best variant recover, whether that is as much as the embedded LLM's, and why."""
    *earlier, last = curves
    found = curves[last]
    own = [name for name in found if name not in (BASE.name, OTHER)]
    best = max(own, key=lambda name: sum(pooled(found[name], fact).mean() for fact in MAIN))
    lost = [fact for fact in MAIN if difference(pooled(found[best], fact), pooled(found[OTHER], fact)).sign < 0]
    chosen = " It is chosen by these figures, which flatters it." if len(own) > 1 else ""
    return [
        *(told(found, name) for name in dict.fromkeys((PAPER.name, best, OTHER))),
        f"Of {llm}, {best} is best.{chosen}",
        *sentences(found, best, dict.fromkeys(name for name in (PAPER.name, OTHER) if name != best)),
        f"So here {llm} steers worse than the embedded one in {' and '.join(lost)}."
        if lost
        else f"So here nothing shows that {llm} steers worse than the embedded one.",
        *(over_steps(curves, best) for _ in earlier[:1]),
    ]


def told(found: dict[str, Shares], name: str) -> str:
    """Return a sentence on what a variant recovers."""
    base = found[BASE.name]
    parts = []
    for wording in CAPTIONS:
        figures = [f"{recovered(base, found[name], fact, wording)} in {fact}" for fact in MAIN]
        parts.append(f"{' and '.join(figures)} on {LABELS[wording]}")
    return f"Of what the base loses there, {name} recovers {'; '.join(parts)}."


def over_steps(curves: Curves, name: str) -> str:
    """Return a sentence on what a variant recovers as it is trained."""
    base = curves[max(curves)][BASE.name]
    parts = []
    for fact in MAIN:
        figures = [f"{recovered(base, found[name], fact, *CAPTIONS)} after {step}" for step, found in curves.items()]
        parts.append(f"of {fact} {', '.join(figures)}")
    return f"Over steps of training, over both wordings, {name} recovers {'; '.join(parts)}."


def plot(curve: list[dict[str, Any]]) -> Figure:
    """What is recovered over steps: a row a fact, a column a wording, a colour a variant."""
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
    figure.supxlabel("steps", fontsize=9)
    figure.supylabel("share of what the base loses that is recovered", fontsize=9)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8)
    return figure
