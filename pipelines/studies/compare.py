"""Variants beside each other: the same prompts, seeds, steps and guidance for all of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from llmdiff.shapes.captions import WORDINGS
from llmdiff.studies.estimates import Estimate, difference, share
from pipelines.studies.workspace import Shares, Variant, Workspace

matplotlib.use("Agg")
CAPTIONS = ("natural", "unseen_wording")
"""Wordings that the base does not understand; training showed the first."""
MAIN = ("binding", "relation")
LABELS = {"template": "the base's template", "natural": "wordings of training", "unseen_wording": "new wordings"}
SHARES = tuple(f"{fact}, {LABELS[wording]}" for fact in MAIN for wording in CAPTIONS)
"""Columns of a table of variants that hold shares of prompts."""


def shares_by_variant(workspace: Workspace, variants: Iterable[Variant]) -> dict[str, Shares]:
    """Return every variant's verdicts."""
    return {variant.name: workspace.shares(variant) for variant in variants}


def pooled(shares: Shares, fact: str, wordings: Sequence[str] = CAPTIONS) -> np.ndarray:
    """Return verdicts ``(seed, scene)`` on one fact, the mean of several wordings: a scene is one piece of evidence."""
    return np.mean([shares[wording][fact] for wording in wordings], axis=0)


def rows(found: dict[str, Shares], reference: str) -> list[dict[str, Any]]:
    """Return a row a variant: shares in both wordings, and differences from the reference."""
    table: list[dict[str, Any]] = []
    for name, shares in found.items():
        row: dict[str, Any] = {"variant": name, "trainings": len(shares["natural"]["binding"])}
        for fact in MAIN:
            for wording in CAPTIONS:
                row[f"{fact}, {LABELS[wording]}"] = share(shares[wording][fact])
        for fact in MAIN:
            gap = difference(pooled(shares, fact), pooled(found[reference], fact))
            row[f"{fact}, over {reference}"] = None if name == reference else gap
        table.append(row)
    return table


def shares_plot(found: dict[str, Shares], wordings: Sequence[str] = tuple(WORDINGS)) -> Figure:
    """Plot a panel a fact, a line a variant, a point with its interval a wording."""
    figure = Figure(figsize=(9, 0.42 * len(found) + 1.5), layout="constrained")
    axes = figure.subplots(1, len(MAIN), sharey=True)
    places = np.arange(len(found))
    offsets = np.linspace(-0.22, 0.22, len(wordings))
    for axis, fact in zip(axes, MAIN, strict=True):
        for wording, offset in zip(wordings, offsets, strict=True):
            points(axis, places + offset, [share(shares[wording][fact]) for shares in found.values()], LABELS[wording])
        axis.set_title(fact, fontsize=10)
        axis.set_xlim(-0.02, 1.02)
        axis.grid(axis="x", alpha=0.3)
    axes[0].set_yticks(places, list(found))
    axes[0].invert_yaxis()
    figure.supxlabel("share of prompts for which all facts of the kind hold, with 95 % intervals", fontsize=9)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(wordings), fontsize=9)
    return figure


def points(axis: Any, places: np.ndarray, estimates: Sequence[Estimate], label: str) -> None:
    """Plot estimates as points with their intervals, one below the other."""
    values = np.array(estimates)  # (variant, 3)
    errors = np.abs(values[:, 1:].T - values[:, 0])
    axis.errorbar(values[:, 0], places, xerr=errors, fmt="o", markersize=4, capsize=2, label=label)
