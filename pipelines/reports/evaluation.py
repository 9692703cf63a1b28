"""The evaluation's page: one HTML file with tables, plots and pictures inside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from llmdiff.evaluation import Evaluation
from llmdiff.evaluation.report import extremes, number
from llmdiff.image_files import open_rgb
from pipelines.reports.html import jpeg, render, svg, within_side

matplotlib.use("Agg")
SHOWN = 6  # prompts that are helped most, and hurt most
SIDE = 256  # pixels of a picture on the page
COLOURS = {"better": "#1a7f37", "worse": "#c62828", "higher": "#4a5a8a", "lower": "#4a5a8a"}


def page(report: Mapping[str, Any], evaluations: Mapping[str, Evaluation]) -> str:
    """Return the page as HTML without scripts; whatever users wrote is escaped."""
    column = report["columns"][0]
    return render(
        "evaluation.html",
        functions={"number": number, "colours": COLOURS},
        report=report,
        subject=next(iter(report["models"])),
        main=column,
        categories=next(iter(evaluations.values())).categories(),
        plot=svg(differences_plot(report)) if report["differences"][column] else None,
        examples={baseline: _examples(evaluations, column, baseline) for baseline in report["differences"][column]},
    )


def differences_plot(report: Mapping[str, Any]) -> Figure:
    """Return a plot of paired differences with their intervals: a panel a score, a line a baseline or category."""
    panels = {column: _lines(entries) for column, entries in report["differences"].items()}
    panels |= {
        f"{name} (less is better)": _lines(distance["differences"])
        for name, distance in report["distances"].items()
        if "differences" in distance
    }
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    longest = max(len(lines) for lines in panels.values())
    figure = Figure(figsize=(10.5, rows * (1.0 + 0.22 * longest)), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis, (title, lines) in zip(axes.flat, panels.items(), strict=False):
        for y, (_, entry) in enumerate(lines):
            middle, interval = entry.get("mean", entry.get("value")), entry["interval"]
            colour = COLOURS.get(entry["verdict"], "#777777")
            axis.plot([middle], [y], "o", color=colour, markersize=4)
            if interval is not None:
                axis.plot(interval, [y, y], color=colour, linewidth=1.5)
        axis.axvline(0, color="#222222", linewidth=0.8)
        # what users wrote is no formula
        axis.set_yticks(range(len(lines)), [name.replace("$", r"\$") for name, _ in lines], fontsize=7)
        axis.set_ylim(len(lines) - 0.5, -0.5)
        axis.tick_params(axis="x", labelsize=7)
        axis.xaxis.set_major_locator(MaxNLocator(4))
        axis.set_title(title, fontsize=9)
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    return figure


def _lines(entries: Mapping[str, Any]) -> list[tuple[str, Any]]:
    lines = []
    for baseline, entry in entries.items():
        lines.append((f"- {baseline}", entry))
        lines += [(str(category) or "no category", part) for category, part in entry.get("by_category", {}).items()]
    return lines


def _examples(evaluations: Mapping[str, Evaluation], column: str, baseline: str) -> list[tuple[str, list[Any]]]:
    """Return the prompts that the adapter helps most, and those that it hurts most, over a baseline."""
    found = extremes(evaluations, column, baseline, SHOWN)
    return [
        (title, [_example(each, evaluations, column) for each in examples])
        for title, examples in zip(("helps most", "hurts most"), found, strict=True)
    ]


def _example(found: Mapping[str, Any], evaluations: Mapping[str, Evaluation], column: str) -> dict[str, Any]:
    """Return a prompt with each model's picture of it, from one seed, and its score."""
    row = found["row"]
    pictures = []
    for model, each in evaluations.items():
        image = open_rgb(each.pictures[row])
        pictures.append((model, jpeg(image, within_side(image, SIDE)), number(float(each.scores[column][row]))))
    return {**found, "pictures": pictures}
