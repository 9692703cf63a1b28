"""An LLM that shows its outputs alone: students guess the encodings, and steer the adapter that knows the real ones."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from llmdiff.encoder import Encoder
from llmdiff.shapes import DIFFUSION
from llmdiff.studies.estimates import Estimate, share, survived
from llmdiff.studies.readings import StudyReading
from llmdiff.studies.student import Shown, StudentConfig, StudentEncoder, agreement, train_student
from pipelines.runtime.progress import advance, progress, quieten_loading
from pipelines.runtime.stage import task
from pipelines.studies.compare import CAPTIONS, MAIN, pooled
from pipelines.studies.outcome import Outcome
from pipelines.studies.words import brief
from pipelines.studies.workspace import BASE, Shares, Workspace, remembered, stacked
from storage import EncodingStore
from storage.hashing import canonical_json, content_hash
from storage.reading.dataset import DatasetConfig, EncodingDataset

matplotlib.use("Agg")
SHOWN: dict[Shown, str] = {
    "tokens": "the text alone, no LLM",
    "embedding": "one embedding a text",
    "top": "20 log-probabilities a token",
    "logprobs": "all log-probabilities",
}
TEACHER = "the score difference itself"
KEPT = "relation, share of the gain"


def study(workspace: Workspace) -> Outcome:
    """Train a student for each thing that an API may show, and draw with it through the trained adapters."""
    paper = workspace.paper
    found = {"base": workspace.shares(BASE), TEACHER: workspace.shares(paper)}
    agreed: dict[str, dict[str, float]] = {}
    for shown, text in SHOWN.items():
        folder = workspace.output / "students" / student_name(workspace, shown)
        agreed[text] = taught(workspace, shown, folder)
        models = [
            workspace.model(paper, seed).model_copy(update={"student": str(folder)}) for seed in workspace.seeds(paper)
        ]
        found[text] = stacked([workspace.verdicts(text, model) for model in models])
    rows = [row(name, found, agreed.get(name, {})) for name in found]
    return Outcome(rows=rows, summary=summary(rows), figure=plot(rows), finding=findings(rows))


def student_name(workspace: Workspace, shown: Shown) -> str:
    """Return a folder name for a student of this size."""
    key = workspace.llm.reading().key
    about = {"pictures": workspace.sizes.pictures, "steps": workspace.sizes.student_steps, "reading": key}
    return f"{shown}-{content_hash(canonical_json(about).encode())[:8]}"


def taught(workspace: Workspace, shown: Shown, folder: Path) -> dict[str, float]:
    """Return cosine and R² of a student with its teacher on captions of held-out scenes; train it once."""
    config = StudentConfig(shown=shown, steps=workspace.sizes.student_steps)
    captions = [prompt.text for i, prompt in enumerate(workspace.prompts) if i % 3 > 0]  # not in the base's template
    reading = workspace.llm.reading()
    teach_here = partial(teach, workspace.store, reading, workspace.encodings(reading), config, captions, folder)
    found: dict[str, float] = remembered(folder / "agreement.json", config.model_dump(), teach_here)
    return found


@task("teach student")
def teach(
    store: Path, reading: StudyReading, fingerprint: str, config: StudentConfig, held_out: list[str], folder: Path
) -> dict[str, float]:
    """Train a student on the store's encodings, and compare it with its teacher on captions it has not seen."""
    quieten_loading()
    teacher = reading.load(str(DIFFUSION))
    assert isinstance(teacher, Encoder)
    captions, encodings = stored(store, fingerprint)
    with progress(f"teach, {config.shown}", config.steps, "step"):
        student: StudentEncoder = train_student(config, teacher, captions, encodings, folder, advance)
    return agreement(student, teacher, held_out)


def stored(store: Path, fingerprint: str) -> tuple[list[str], list[Tensor]]:
    """Return the store's different captions with their encodings ``(token, hidden)``, bfloat16."""
    samples = EncodingStore.open(str(store)).samples(fingerprint)
    texts = dict(zip(samples["caption_hash"].to_pylist(), samples["caption"].to_pylist(), strict=True))
    found: dict[str, Tensor] = {}
    for batch in EncodingDataset(str(store), DatasetConfig(fingerprint=fingerprint, batch_size=64)).epoch(0):
        lengths = batch.mask.sum(1).tolist()
        rows = zip(batch.caption_hashes, batch.encodings, lengths, strict=True)
        found |= {key: encoding[:length].clone() for key, encoding, length in rows}
    keys = sorted(found)
    return [texts[key] for key in keys], [found[key] for key in keys]


def row(name: str, found: dict[str, Shares], agreed: dict[str, float]) -> dict[str, Any]:
    """Return a table row: agreement with the teacher, both facts, and how much of the teacher's gain is left."""
    line: dict[str, Any] = {"what is shown": name, "cosine": agreed.get("cosine"), "R²": agreed.get("r2")}
    for fact in MAIN:
        line[fact] = share(pooled(found[name], fact))
    for fact in MAIN:
        arrays = (pooled(found[one], fact, CAPTIONS) for one in ("base", name, TEACHER))
        line[f"{fact}, share of the gain"] = None if name in ("base", TEACHER) else survived(*arrays)
    return line


def findings(rows: list[dict[str, Any]]) -> list[str]:
    """Say how much of the gain survives, and how much of it the LLM's outputs bring over the text alone."""
    students = [row for row in rows if row["R²"] is not None]
    defined = [row for row in students if not np.isnan(row[KEPT].value)]
    kept = max(defined, key=lambda row: row[KEPT].value, default=None)
    best = max(students, key=lambda row: row["R²"])
    return [
        "The score difference itself gains nothing in relation that shows, so there is nothing to keep."
        if kept is None
        else f"Of the score difference's gain in relation, a student keeps {kept[KEPT]} at most, that of "
        f'"{kept["what is shown"]}".',
        f"On captions of held-out scenes the best student ({best['what is shown']}) explains {best['R²']:.0%} of the "
        f"encodings' variance, the one that sees no LLM {students[0]['R²']:.0%}.",
    ]


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the table without intervals, and without columns that follow from others."""
    columns = ("what is shown", "R²", *MAIN, KEPT)
    return [{column: brief(row[column]) for column in columns} for row in rows]


def plot(rows: list[dict[str, Any]]) -> Figure:
    """Plot both facts, a line for each thing shown."""
    figure = Figure(figsize=(8, 0.45 * len(rows) + 1.1), layout="constrained")
    axes = figure.subplots(1, len(MAIN), sharey=True)
    places = np.arange(len(rows))
    for axis, fact in zip(axes, MAIN, strict=True):
        estimates: list[Estimate] = [row[fact] for row in rows]
        values = np.array(estimates)
        axis.errorbar(values[:, 0], places, xerr=np.abs(values[:, 1:].T - values[:, 0]), fmt="o", capsize=2)
        axis.set_title(fact, fontsize=10)
        axis.set_xlim(-0.02, 1.02)
    axes[0].set_yticks(places, [row["what is shown"] for row in rows], fontsize=8)
    axes[0].invert_yaxis()
    return figure
