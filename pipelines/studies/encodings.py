"""The paper's score difference against hidden states and CLIP, at equal steps and, but for `phi`, equal adapters."""

from __future__ import annotations

from typing import Any

from llmdiff.studies.readings import StudyReading
from pipelines.studies.compare import rows, shares_by_variant, shares_plot
from pipelines.studies.llm import StudyLLM
from pipelines.studies.outcome import Outcome
from pipelines.studies.parameter_counts import parameters
from pipelines.studies.words import listed, sentences, signs, summary
from pipelines.studies.workspace import BASE, PAPER, Variant, Workspace

CLIP = Variant(name="CLIP", reading=StudyReading(kind="base"))
NORMALISED = "each score normalised"
SCORES = (PAPER.name, NORMALISED)


def variants(workspace: Workspace) -> list[Variant]:
    """Return the base, readings of the LLM, and CLIP."""
    read = [
        Variant(name=name, reading=workspace.llm.reading(reading=reading))
        for name, reading in readings(workspace.llm).items()
    ]
    return [BASE, workspace.paper, *read, CLIP]


def readings(llm: StudyLLM) -> dict[str, str]:
    """Return readings beside the score difference, by name; of an LLM as it comes, all that the encoder has."""
    if llm.embedded:
        return {"last hidden state": "last", "a middle layer": "layer:3", "mean of layers": "mean"}
    middle, deep = llm.blocks // 2, two_thirds(llm)
    return {
        NORMALISED: "score_norm",
        "last hidden state": "last",
        "last layer but one": "layer:-2",
        f"layer {middle} of {llm.blocks}": f"layer:{middle}",
        f"layer {deep} of {llm.blocks}": f"layer:{deep}",
        "mean of layers": "mean",
        "mean of normalised layers": "norm_mean",
    }


def two_thirds(llm: StudyLLM) -> int:
    """Return the layer at two thirds of an LLM's depth."""
    return round(2 * llm.blocks / 3)


def study(workspace: Workspace) -> Outcome:
    """Train an adapter on each reading of the same captions."""
    compared = variants(workspace)
    found = shares_by_variant(workspace, compared)
    table = rows(found, PAPER.name)
    for row, variant in zip(table, compared, strict=True):
        row["parameters"] = None if variant.reading is None else parameters(workspace.adapter(variant, 0) / "adapter")
    return Outcome(rows=table, summary=summary(table, PAPER.name), figure=shares_plot(found), finding=findings(table))


def findings(table: list[dict[str, Any]]) -> list[str]:
    """Say whether the formula earns its place, reported either way."""
    told = sentences(table, PAPER.name)
    base = next(row for row in table if row["variant"] == BASE.name)
    if max(signs(base, PAPER.name).values()) <= 0:
        lost = "So here the paper's formula does not earn its place: nothing shows that it is better than base."
        return [*told, lost]
    hidden = [row for row in table if row["variant"] not in (BASE.name, *SCORES, CLIP.name)]
    found = {row["variant"]: signs(row, PAPER.name).values() for row in hidden}
    better = [name for name, sign in found.items() if max(sign) > 0 and min(sign) >= 0]
    worse = [name for name, sign in found.items() if min(sign) < 0]
    earned = f"over {listed(better)}" if better else "over none of the hidden states"
    beaten = f", and loses to {listed(worse)}" if worse else ""
    return [*told, f"So here the paper's formula earns its place {earned}{beaten}."]
