"""Time and memory of encoding with an LLM against CLIP, and of a sampling step with the adapter against the base's."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from pipelines.runtime.stage import task
from pipelines.studies.outcome import Outcome
from pipelines.studies.workspace import QUICK, Workspace

matplotlib.use("Agg")
SCRIPT = Path(__file__).parents[2] / "benchmarks" / "latency.py"
SECONDS = "s"


def study(workspace: Workspace) -> Outcome:
    """Run `benchmarks/latency.py` once on this machine's device, and read its rows."""
    small = workspace.sizes.steps <= QUICK.steps
    folder = workspace.output / "latency" / ("small" if small else "real")
    if not (folder / "done").exists():
        measure(folder, small)
    with (folder / "latency.csv").open(newline="") as file:
        measured = list(csv.DictReader(file))
    columns = {"what": "what", "batch": "batch", "value": "median", "unit": "unit", "p20": "p20", "p80": "p80"}
    columns |= {"peak_mb": "peak MB", "setting": "setting"}
    rows: list[dict[str, Any]] = [{title: row[name] for name, title in columns.items()} for row in measured]
    device = f"{measured[0]['device']}, {measured[0]['dtype']}, {measured[0]['models']}"
    return Outcome(
        rows=rows,
        summary=summary(rows),
        figure=plot(rows, device),
        finding=findings(rows, device),
        facts={"device": device},
    )


@task("measure latency")
def measure(folder: Path, small: bool) -> None:
    """Run the benchmark in a process of its own, whose memory is measured; throw the rows of a broken run away."""
    if not SCRIPT.is_file():
        raise ValueError(f"{SCRIPT}: expected the repository's benchmark, found none: run the study from a checkout")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "latency.csv").unlink(missing_ok=True)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(SCRIPT.parents[1]), os.environ.get("PYTHONPATH", "")]),
    }
    command = [sys.executable, str(SCRIPT), "--results", str(folder), *(["--quick"] if small else [])]
    subprocess.run(command, check=True, env=environment)
    (folder / "done").touch()


def findings(rows: list[dict[str, Any]], device: str) -> list[str]:
    """Return the ratios at each batch size, in words."""
    found = {(row["what"], row["batch"]): float(row["median"]) for row in rows}
    sentences = []
    for batch in sorted({row["batch"] for row in rows}, key=int):
        llms = [what for what, of in found if of == batch and what.endswith(" encodes") and what != "CLIP encodes"]
        ratios = [
            f"{what} in {found[what, batch] / found['CLIP encodes', batch]:.1f} times CLIP's time" for what in llms
        ]
        step = found["adapter step over base step", batch]
        sentences.append(
            f"At batch {batch}, {', '.join(ratios)}; a step with the adapter takes {step:.2f} times the base's."
        )
    most = max(value for (what, _), value in found.items() if " by " in what)
    return [*sentences, f"Encoding takes {most:.1%} of a picture of 30 steps at most.", f"Measured on: {device}."]


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a row a measured thing, a column a batch size."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        line = found.setdefault((row["what"], row["unit"]), {"what": row["what"], "unit": row["unit"]})
        line[f"batch {row['batch']}"] = float(row["median"])
    return list(found.values())


def plot(rows: list[dict[str, Any]], device: str) -> Figure:
    """Plot the seconds of each part, a panel a batch size."""
    timed = [row for row in rows if row["unit"] == SECONDS]
    batches = sorted({row["batch"] for row in timed}, key=int)
    figure = Figure(figsize=(9, 2.8), layout="constrained")
    for axis, batch in zip(figure.subplots(1, len(batches), squeeze=False)[0], batches, strict=True):
        of_batch = [row for row in timed if row["batch"] == batch]
        values = np.array([[float(row[name]) for name in ("median", "p20", "p80")] for row in of_batch])
        errors = np.abs(values[:, 1:].T - values[:, 0])
        axis.barh(range(len(of_batch)), values[:, 0], xerr=errors, capsize=2)
        axis.set_yticks(range(len(of_batch)), [row["what"] for row in of_batch], fontsize=8)
        axis.invert_yaxis()
        axis.set_xlabel("seconds")
        axis.set_title(f"batch {batch}", fontsize=10)
    figure.suptitle(device, fontsize=8)
    return figure
