"""The demonstration's report: `report.json`, `samples.png` and one self-contained `report.html`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from llmdiff.shapes.evaluator import FACTS
from llmdiff.shapes.render import render_scene
from pipelines.reports.html import DPI, png, render
from pipelines.reports.json_values import finite

if TYPE_CHECKING:
    from llmdiff.evaluation import Evaluation

matplotlib.use("Agg")
MODELS = {"base": "base model", "adapter": "adapter on the LLM", "control": "adapter on the base's text features"}
WORDING_NAMES = {
    "template": "the base's own template",
    "natural": "natural wordings, seen in training",
    "unseen_wording": "wordings that no picture was paired with",
}


def build_report(
    evaluations: dict[str, Evaluation],
    seconds: dict[str, float],
    store: dict[str, Any],
    registry: dict[str, Any],
    note: str | None = None,
) -> dict[str, Any]:
    """Return what `report.json` holds, from the evaluations of "base", "adapter" and "control" on the same prompts.

    Args:
        evaluations: of the three models.
        seconds: that each stage took.
        store: facts of the encoding store.
        registry: facts of the registered version.
        note: what a reader must know before the figures, where they say less than they seem to.
    """
    from llmdiff.evaluation import gap_recovered  # imports torch, which the plot of a run's weights does not need

    base = evaluations["base"]
    scenes = {prompt.seed for prompt in base.prompts}
    recovered = {
        model: {
            wording: {fact: gap_recovered(base, evaluations[model], fact, wording) for fact in ("binding", "relation")}
            for wording in ("natural", "unseen_wording")
        }
        for model in ("adapter", "control")
    }
    return {
        **({} if note is None else {"note": note}),
        "prompts": len(base.prompts),
        "seeds": len(scenes),
        **{model: evaluation.table() for model, evaluation in evaluations.items()},
        "intervals": {model: evaluation.intervals() for model, evaluation in evaluations.items()},
        "gap_recovered": recovered,
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
        "store": store,
        "registry": registry,
    }


def write_report(
    folder: Path,
    report: dict[str, Any],
    evaluations: dict[str, Evaluation],
    runs: dict[str, Path],
    facts: dict[str, str],
) -> None:
    """Write `report.json`, `samples.png` and `report.html` into the folder.

    Args:
        folder: made if it is missing.
        report: what `build_report` returned.
        evaluations: the pictures shown.
        runs: `metrics.jsonl` of each training run ("adapter", "control").
        facts: what was done, name to sentence, for the page's table.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(json.dumps(finite(report), indent=2) + "\n")
    samples = sample_grid(evaluations)
    samples.savefig(folder / "samples.png", dpi=DPI)
    metrics = {name: [json.loads(line) for line in path.read_text().splitlines()] for name, path in runs.items()}
    figures = {
        "samples": samples,
        "shares": shares_plot(report),
        "loss": loss_plot(metrics),
        "weights": weights_plot(metrics["adapter"]),
    }
    page = render(
        "demo.html",
        report=report,
        facts=facts,
        models=MODELS,
        wordings=WORDING_NAMES,
        fact_names=FACTS,
        note=report.get("note"),
        summary=summary(report),
        figures={name: png(figure) for name, figure in figures.items()},
    )
    (folder / "report.html").write_text(page)


def summary(report: dict[str, Any]) -> list[str]:
    """Return the result in words, one sentence a line, with 95 % intervals."""
    lines = []
    for wording, name in WORDING_NAMES.items():
        for fact in ("binding", "relation"):
            parts = []
            for model, label in MODELS.items():
                low, high = report["intervals"][model][wording][fact]
                parts.append(f"{label} {report[model][wording][fact]:.2f} ({low:.2f} to {high:.2f})")
            lines.append(f"{fact.capitalize()} on {name}: {', '.join(parts)}.")
    for wording in ("natural", "unseen_wording"):
        for model in ("adapter", "control"):
            parts = []
            for fact in ("binding", "relation"):
                gap = report["gap_recovered"][model][wording][fact]
                low, high = gap["interval"]
                parts.append(f"{gap['value']:.0%} of the gap in {fact} ({low:.0%} to {high:.0%})")
            lines.append(f"On {WORDING_NAMES[wording]} the {MODELS[model]} recovers {' and '.join(parts)}.")
    return lines


def sample_grid(evaluations: dict[str, Evaluation], rows: int = 8) -> Figure:
    """Return a grid: a row a prompt, natural and unseen wordings in turn; base, adapter, true picture."""
    prompts = evaluations["base"].prompts
    rows_of = {
        wording: [i for i, prompt in enumerate(prompts) if prompt.category == wording]
        for wording in ("natural", "unseen_wording")
    }
    chosen = [pair[row % 2] for row, pair in enumerate(zip(*rows_of.values(), strict=True))][:rows]
    figure = Figure(figsize=(7.5, 1.9 * len(chosen)), layout="constrained")
    axes = figure.subplots(len(chosen), 3, squeeze=False)
    for row, i in zip(axes, chosen, strict=True):
        columns = (evaluations["base"].pictures[i], evaluations["adapter"].pictures[i], render_scene(prompts[i].scene))
        for axis, picture in zip(row, columns, strict=True):
            axis.imshow(picture, interpolation="nearest")
            axis.set_axis_off()
        unseen = " (wording unseen)" if prompts[i].category == "unseen_wording" else ""
        row[1].set_title(prompts[i].text + unseen, fontsize=9)
    for axis, title in zip(axes[0], ("base", "adapter", "true picture"), strict=True):
        axis.text(0.5, 1.22, title, transform=axis.transAxes, ha="center", fontweight="bold")
    return figure


def shares_plot(report: dict[str, Any]) -> Figure:
    """Return a plot of the shares of prompts whose facts hold, with intervals: one panel a wording."""
    figure = Figure(figsize=(10, 3.2), layout="constrained")
    axes = figure.subplots(1, 3, sharey=True)
    for axis, wording in zip(axes, WORDING_NAMES, strict=True):
        for offset, model in zip((-0.27, 0, 0.27), MODELS, strict=True):
            heights = [report[model][wording][fact] for fact in FACTS]
            bounds = np.array([report["intervals"][model][wording][fact] for fact in FACTS])
            errors = np.abs(bounds.T - heights)
            axis.bar(np.arange(len(FACTS)) + offset, heights, 0.26, yerr=errors, capsize=2, label=MODELS[model])
        axis.set_xticks(range(len(FACTS)), FACTS)
        axis.set_title(WORDING_NAMES[wording], fontsize=10)
        axis.set_ylim(0, 1.02)
    axes[0].set_ylabel("share of prompts")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=9)
    return figure


def loss_plot(metrics: dict[str, list[dict[str, Any]]], window: int = 8) -> Figure:
    """Return a plot of the training loss of each run, smoothed over `window` records."""
    figure = Figure(figsize=(7, 3), layout="constrained")
    axis = figure.subplots()
    for name, records in metrics.items():
        losses = np.array([record["loss"] for record in records])
        span = max(1, min(window, len(losses) // 4))
        smooth = np.convolve(losses, np.ones(span) / span, "valid")
        axis.plot([record["step"] for record in records][span - 1 :], smooth, label=MODELS[name])
    axis.set_xlabel("step")
    axis.set_ylabel("loss")
    axis.legend()
    return figure


def weights_plot(records: Sequence[dict[str, Any]]) -> Figure:
    """Return a plot of the learned weights of both paths by layer at the end of training (the paper's Figure 6)."""
    layers = next(record["weights"] for record in reversed(records) if record.get("weights"))
    figure = Figure(figsize=(7, 0.4 * len(layers) + 1.2), layout="constrained")
    axis = figure.subplots()
    rows = np.arange(len(layers))
    axis.barh(rows - 0.2, [layer["original"] for layer in layers], 0.4, label="original path, a1 exp(b1)")
    axis.barh(rows + 0.2, [layer["new"] for layer in layers], 0.4, label="new path, a2 exp(b2)")
    axis.set_yticks(rows, [layer["layer"].split(".transformer_blocks")[0] for layer in layers], fontsize=8)
    axis.invert_yaxis()
    axis.legend(fontsize=8)
    return figure


def save_weights_plot(metrics: Path, path: Path) -> Path:
    """Write `weights_plot` of a run's ``metrics.jsonl`` as a PNG."""
    records = [json.loads(line) for line in metrics.read_text().splitlines()]
    weights_plot(records).savefig(path, dpi=DPI)
    return path
