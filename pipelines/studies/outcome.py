"""What a study leaves: `table.md`, `result.json`, `plot.png` and `finding.md`."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from llmdiff.studies.estimates import Estimate
from pipelines.studies.workspace import Workspace, keep

TABLE, RESULT, PLOT, FINDING = "table.md", "result.json", "plot.png", "finding.md"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The rows of a study, its picture, and what may be said of them."""

    rows: list[dict[str, Any]]
    """All with the same columns, the first a name; numbers, texts or estimates."""
    figure: Figure
    finding: list[str]
    """Sentences."""
    facts: dict[str, Any] = field(default_factory=dict)
    """More for `result.json`."""


def write_outcome(workspace: Workspace, name: str, outcome: Outcome, seconds: float) -> Path:
    """Writes the four files into the study's folder, and returns it; seconds of calls at the same sizes are summed."""
    folder = workspace.output / name
    sizes = workspace.sizes.model_dump()
    before = json.loads((folder / RESULT).read_text()) if (folder / RESULT).exists() else {}
    if before.get("sizes") == sizes:
        seconds += before["seconds"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / TABLE).write_text(markdown(outcome.rows))
    (folder / FINDING).write_text(" ".join(outcome.finding) + "\n")
    outcome.figure.savefig(folder / PLOT, dpi=90)
    rows = [{column: plain(value) for column, value in row.items()} for row in outcome.rows]
    result = {"study": name, "sizes": sizes, "seconds": round(seconds, 1), "rows": rows}
    keep(folder / RESULT, {**result, "finding": outcome.finding, **plain(outcome.facts)})
    return folder


def markdown(rows: list[dict[str, Any]]) -> str:
    """A table in Markdown."""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *([shown(value) for value in row.values()] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def shown(value: Any) -> str:
    """A value as people read it."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.3g}"
    return str(value)


def plain(value: Any) -> Any:
    """A value as JSON, which has no NaN."""
    if isinstance(value, Estimate):
        return {name: plain(part) for name, part in value._asdict().items()}
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_result(output: Path, name: str) -> dict[str, Any] | None:
    """The `result.json` of a study; None where it has not run."""
    path = output / name / RESULT
    return json.loads(path.read_text()) if path.exists() else None
