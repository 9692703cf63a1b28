"""Each attention path alone, both, and the original one removed for good; with what the base had known and lost."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from llmdiff.studies.estimates import Estimate, share
from pipelines.studies.compare import rows, shares_by_variant, shares_plot
from pipelines.studies.outcome import Outcome
from pipelines.studies.words import sentences, signs, summary
from pipelines.studies.workspace import BASE, PAPER, Shares, Workspace

BOTH = replace(PAPER, name="both paths")
ORIGINAL_FORCED = replace(PAPER, name="original only (a1=1, a2=0)", weights=(1.0, 0.0))
LLM_FORCED = replace(PAPER, name="LLM only (a1=0, a2=1)", weights=(0.0, 1.0))
REMOVED = replace(PAPER, name="original removed (retrained)", adapter=(("paths", "new"),))
PHI = replace(PAPER, name="original alone (retrained)", adapter=(("paths", "original"),), seeds=1)
CLIP = replace(PAPER, name="original path on CLIP (retrained)", adapter=(("base_context", "clip"),), seeds=1)
KEPT = "kept of what the base could do"
VARIANTS = [BASE, BOTH, ORIGINAL_FORCED, LLM_FORCED, REMOVED, PHI, CLIP]


def study(workspace: Workspace) -> Outcome:
    """Score both paths, each alone, and adapters trained without, or with another, original path."""
    found = shares_by_variant(workspace, VARIANTS)
    table = rows(found, BOTH.name)
    for row in table:
        row[KEPT] = kept(found, row["variant"])
    return Outcome(
        rows=table, summary=summary(table, BOTH.name, KEPT), figure=shares_plot(found), finding=findings(table)
    )


def kept(found: dict[str, Shares], name: str) -> Estimate:
    """Return how large a share a variant draws right of the prompts in the base's template that the base drew right."""
    could = found[BASE.name]["template"]["binding"][0] == 1
    verdicts = found[name]["template"]["binding"][:, could]
    return share(verdicts) if could.any() else Estimate(np.nan, np.nan, np.nan)


def findings(table: list[dict[str, Any]]) -> list[str]:
    """Say what each path alone brings, what is forgotten, and whether the original is needed."""
    by_name = {row["variant"]: row for row in table}
    needed = signs(by_name[REMOVED.name], BOTH.name)["relation"]
    answers = {1: "the original module is needed", 0: "nothing shows that it is needed", -1: "it is in the way"}
    return [
        *sentences(table, BOTH.name, without=[BASE.name]),
        f"Of the template prompts that the base drew right, {BOTH.name} still draw {by_name[BOTH.name][KEPT]}.",
        f"Trained for as many steps without the original module, by the relation: {answers[needed]}.",
    ]
