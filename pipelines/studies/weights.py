"""The learned weights of both paths, by layer and over training: the paper's Figure 6."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import spearmanr

from pipelines.studies.outcome import Outcome
from pipelines.studies.parameter_counts import parameters_by_layer
from pipelines.studies.workspace import PAPER, Workspace

PATHS = {"original": "original path, a1 exp(b1)", "new": "new path, a2 exp(b2)"}


def study(workspace: Workspace) -> Outcome:
    """Read what the trainings of the score difference wrote; nothing is trained for it."""
    folders = [workspace.adapter(PAPER, seed) for seed in workspace.seeds(PAPER)]
    steps, layers, weights = read_weights([folder / "metrics.jsonl" for folder in folders])
    sizes = parameters_by_layer(folders[0] / "adapter")
    last = weights[:, -1]  # (seed, layer, path)
    rows: list[dict[str, Any]] = [
        {
            "layer": short(layer),
            "parameters": sizes[layer],
            **{text: spread(last[:, i, path]) for path, text in enumerate(PATHS.values())},
            "original's share": float(shares(last)[:, i].mean()),
        }
        for i, layer in enumerate(layers)
    ]
    found = shares(last).mean(0)
    return Outcome(
        rows=rows,
        figure=plot(steps, layers, weights),
        summary=summary(weights),
        finding=findings(found, np.array([sizes[layer] for layer in layers])),
        facts={"steps": steps.tolist(), "weights": weights.tolist()},
    )


def read_weights(files: list[Path]) -> tuple[np.ndarray, list[str], np.ndarray]:
    """Return logged steps ``(row,)``, layers, and weights ``(seed, row, layer, path)``, the original path first."""
    runs = [[json.loads(line) for line in file.read_text().splitlines()] for file in files]
    layers = [layer["layer"] for layer in runs[0][0]["weights"]]
    table = [[[[layer[path] for path in PATHS] for layer in row["weights"]] for row in run] for run in runs]
    return np.array([row["step"] for row in runs[0]]), layers, np.array(table)


def shares(weights: np.ndarray) -> np.ndarray:
    """Return the original path's share of both weights, ``(..., layer)``."""
    magnitude = np.abs(weights)
    share: np.ndarray = magnitude[..., 0] / magnitude.sum(-1)
    return share


def findings(share: np.ndarray, sizes: np.ndarray) -> list[str]:
    """Say which path is larger where, and whether that goes with a layer's size, as the paper says of Figure 6."""
    dominated = int((share > 0.5).sum())
    rank = spearmanr(sizes, share)
    claim = "The paper says that layers with fewer parameters keep more of the original path: "
    if rank.pvalue >= 0.05 or np.isnan(rank.pvalue):
        claim += "no such order shows here"
    else:
        claim += "so it is here" if rank.statistic < 0 else "here it is the other way round"
    return [
        f"The original path has the larger weight in {dominated} of {len(share)} layers, and a share of the weights "
        f"from {share.min():.2f} to {share.max():.2f}.",
        f"{claim} (Spearman {rank.statistic:.2f}, p = {rank.pvalue:.2g}, {len(share)} layers).",
    ]


def summary(weights: np.ndarray) -> list[dict[str, Any]]:
    """Return a row a path: its mean weight at the beginning and the end, and the range over layers at the end."""
    first, last = weights[:, 0].mean(0), weights[:, -1].mean(0)  # (layer, path)
    return [
        {
            "weight": text,
            "at the first logged step": f"{first[:, path].mean():.2f}",
            "at the last": f"{last[:, path].mean():.2f}",
            "its layers then": f"{last[:, path].min():.2f} to {last[:, path].max():.2f}",
        }
        for path, text in enumerate(PATHS.values())
    ]


def plot(steps: np.ndarray, layers: list[str], weights: np.ndarray) -> Figure:
    """Plot both weights by layer at the end, with a whisker from seed to seed (left), and over training (right)."""
    figure = Figure(figsize=(10, 0.4 * len(layers) + 1.4), layout="constrained")
    bars, lines = figure.subplots(1, 2)
    places = np.arange(len(layers))
    for path, (text, offset) in enumerate(zip(PATHS.values(), (-0.2, 0.2), strict=True)):
        last = weights[:, -1, :, path]
        middle = last.mean(0)
        bars.barh(places + offset, middle, 0.4, xerr=[middle - last.min(0), last.max(0) - middle], label=text)
        over = weights[..., path].mean(0)  # (row, layer)
        lines.plot(steps, over, color=f"C{path}", alpha=0.35, linewidth=0.8)
        lines.plot(steps, over.mean(1), color=f"C{path}", linewidth=2, label=text)
    bars.set_yticks(places, [short(layer) for layer in layers], fontsize=8)
    bars.invert_yaxis()
    lines.set_xlabel("step")
    figure.legend(*lines.get_legend_handles_labels(), loc="outside upper center", ncols=2, fontsize=9)
    return figure


def spread(values: np.ndarray) -> str:
    """Return the mean, and the range over seeds."""
    return f"{values.mean():.2f} ({values.min():.2f} to {values.max():.2f})"


def short(layer: str) -> str:
    """Return a layer's path without what all of them have."""
    return layer.split(".transformer_blocks")[0]
