"""The paper's score difference against hidden states and CLIP, at equal steps and, but for `phi`, equal adapters."""

from __future__ import annotations

from llmdiff.shapes.captions import PROMPT
from llmdiff.studies.readings import Reading
from pipelines.studies.compare import MAIN, gaps, rows, sentences, shares_by_variant, shares_plot
from pipelines.studies.outcome import Outcome
from pipelines.studies.parameter_counts import parameters
from pipelines.studies.workspace import BASE, PAPER, Shares, Variant, Workspace

HIDDEN = [
    Variant(name=name, reading=Reading(settings={"template": PROMPT, "reading": reading}))
    for name, reading in [("last hidden state", "last"), ("a middle layer", "layer:3"), ("mean of layers", "mean")]
]
VARIANTS = [BASE, PAPER, *HIDDEN, Variant(name="CLIP", reading=Reading(kind="base"))]


def study(workspace: Workspace) -> Outcome:
    """Trains an adapter on each reading of the same captions."""
    found = shares_by_variant(workspace, VARIANTS)
    table = rows(found, PAPER.name)
    for row, variant in zip(table, VARIANTS, strict=True):
        row["parameters"] = None if variant.reading is None else parameters(workspace.adapter(variant, 0) / "adapter")
    return Outcome(rows=table, figure=shares_plot(found), finding=findings(found))


def findings(found: dict[str, Shares]) -> list[str]:
    """Whether the formula earns its place, reported either way."""
    signs = {variant.name: [gaps(found, PAPER.name, fact)[variant.name].sign for fact in MAIN] for variant in HIDDEN}
    better = [name for name, sign in signs.items() if max(sign) > 0 and min(sign) >= 0]
    worse = [name for name, sign in signs.items() if min(sign) < 0]
    earned = f"over {', '.join(better)}" if better else "over none of the hidden states"
    lost = f", and loses to {', '.join(worse)}" if worse else ""
    return [*sentences(found, PAPER.name), f"So here the paper's formula earns its place {earned}{lost}."]
