"""Each attention path alone, both, and the original one removed for good; with what the base had known and lost."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from llmdiff.studies.estimates import Estimate, share
from pipelines.studies.compare import gaps, rows, sentences, shares_by_variant, shares_plot
from pipelines.studies.outcome import Outcome
from pipelines.studies.workspace import BASE, PAPER, Shares, Workspace

BOTH = replace(PAPER, name="both paths")
ORIGINAL_FORCED = replace(PAPER, name="original only (a1=1, a2=0)", weights=(1.0, 0.0))
LLM_FORCED = replace(PAPER, name="LLM only (a1=0, a2=1)", weights=(0.0, 1.0))
REMOVED = replace(PAPER, name="original removed (retrained)", adapter=(("paths", "new"),))
PHI = replace(PAPER, name="original alone (retrained)", adapter=(("paths", "original"),), seeds=1)
CLIP = replace(PAPER, name="original path on CLIP (retrained)", adapter=(("base_context", "clip"),), seeds=1)
VARIANTS = [BASE, BOTH, ORIGINAL_FORCED, LLM_FORCED, REMOVED, PHI, CLIP]


def study(workspace: Workspace) -> Outcome:
    """The first four need one training; the others are trained without, or with another, original path."""
    found = shares_by_variant(workspace, VARIANTS)
    table = rows(found, BOTH.name)
    for row in table:
        row["kept of what the base could do"] = kept(found, row["variant"])
    return Outcome(rows=table, figure=shares_plot(found), finding=findings(found))


def kept(found: dict[str, Shares], name: str) -> Estimate:
    """Return how large a share a variant draws right of the prompts in the base's template that the base drew right."""
    could = found[BASE.name]["template"]["binding"][0] == 1
    verdicts = found[name]["template"]["binding"][:, could]
    return share(verdicts) if could.any() else Estimate(np.nan, np.nan, np.nan)


def findings(found: dict[str, Shares]) -> list[str]:
    """Each path alone; whether the original is needed; what is forgotten."""
    others = [variant.name for variant in (ORIGINAL_FORCED, LLM_FORCED, REMOVED, PHI, CLIP)]
    known = [f"{variant.name} {kept(found, variant.name)}" for variant in (BOTH, REMOVED, PHI, CLIP)]
    needed = gaps({name: found[name] for name in (BOTH.name, REMOVED.name)}, BOTH.name, "relation")[REMOVED.name]
    answers = {1: "the original module is needed", 0: "nothing shows that it is needed", -1: "it is in the way"}
    return [
        *sentences(found, BOTH.name, others),
        f"Of the template prompts that the base drew right, these shares are still right: {', '.join(known)}.",
        f"Trained for as many steps without the original module, by the relation: {answers[needed.sign]}.",
    ]
