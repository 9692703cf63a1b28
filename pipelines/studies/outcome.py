"""The files that a study leaves: `finding.md`, `summary.md`, `table.md`, `plot.png` and `result.json`."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from llmdiff.studies.estimates import Estimate
from pipelines.studies.llm import StudyLLM
from pipelines.studies.workspace import Workspace, keep

TABLE, SUMMARY, RESULT, PLOT, FINDING = "table.md", "summary.md", "result.json", "plot.png", "finding.md"
BY_LLM = "by-llm"
"""Folder of what is found on other LLMs than the embedded one: ``by-llm/<LLM>/<study>``."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The rows of a study, its picture, and what may be said of them."""

    rows: list[dict[str, Any]]
    """Rows with the same columns, the first a name; values are numbers, texts or estimates."""
    summary: list[dict[str, Any]]
    """The rows in few columns, for people to look at first."""
    figure: Figure
    finding: list[str]
    """A few sentences that answer the study's question."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Further entries of `result.json`."""


def write_outcome(workspace: Workspace, name: str, outcome: Outcome, seconds: float) -> Path:
    """Write the five files into the study's folder, and return it; add up seconds of calls at the same sizes."""
    folder = study_folder(workspace, name)
    about: dict[str, Any] = {"study": name, "sizes": workspace.sizes.model_dump(), **about_llm(workspace.llm)}
    before = read_result(folder) or {}
    if all(before.get(key) == value for key, value in about.items()):
        seconds += before["seconds"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / TABLE).write_text(markdown(outcome.rows))
    (folder / SUMMARY).write_text(markdown(outcome.summary))
    (folder / FINDING).write_text(" ".join(outcome.finding) + "\n")
    outcome.figure.savefig(folder / PLOT, dpi=90)
    rows = [{column: plain(value) for column, value in row.items()} for row in outcome.rows]
    result = {**about, "seconds": round(seconds, 1), "rows": rows}
    keep(folder / RESULT, {**result, "finding": outcome.finding, **plain(outcome.facts)})
    return folder


def markdown(rows: list[dict[str, Any]]) -> str:
    """Return rows as a table in Markdown."""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *([shown(value) for value in row.values()] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def shown(value: Any) -> str:
    """Return a value as people read it."""
    if value is None:
        return ""
    if isinstance(value, int) or (isinstance(value, float) and abs(value) >= 1000):
        return f"{value:,.0f}"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def plain(value: Any) -> Any:
    """Return a value as JSON, which has no NaN."""
    if isinstance(value, Estimate):
        return {name: plain(part) for name, part in value._asdict().items()}
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def study_folder(workspace: Workspace, name: str) -> Path:
    """Return the folder of a study's outcome; that of another LLM than the embedded one is apart."""
    return workspace.output / name if workspace.llm.embedded else workspace.output / BY_LLM / workspace.llm.name / name


def about_llm(llm: StudyLLM) -> dict[str, Any]:
    """Return what `result.json` says of an LLM; nothing of the embedded one."""
    return {} if llm.embedded else {"llm": {"name": llm.name, "source": llm.source, "template": llm.template}}


def check_name(workspace: Workspace, name: str) -> None:
    """Raise ValueError where results of another LLM have the name of this one."""
    folder = study_folder(workspace, name)
    for path in [] if workspace.llm.embedded else folder.parent.glob(f"*/{RESULT}"):
        source = json.loads(path.read_text())["llm"]["source"]
        if source != workspace.llm.source:
            raise ValueError(
                f"{folder.parent}: expected results of {workspace.llm.source}, found some of {source}, which has the "
                "same name: rename a folder, or remove those results"
            )


def read_result(folder: Path) -> dict[str, Any] | None:
    """Return the `result.json` in a study's folder; None where it has not run."""
    path = folder / RESULT
    return json.loads(path.read_text()) if path.exists() else None
