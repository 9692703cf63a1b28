"""LLMs of several sizes under one adapter: what each brings, and what encoding costs with it."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import yaml
from matplotlib.figure import Figure
from pydantic import BaseModel, ConfigDict, Field

from llmdiff.encoder import Encoder
from llmdiff.shapes import DIFFUSION, LLAMA, PHI
from llmdiff.shapes.captions import PROMPT
from llmdiff.shapes.pretrain.llm import pretrain_llm
from llmdiff.studies.estimates import Estimate
from llmdiff.studies.readings import StudyReading
from pipelines.runtime.progress import quieten_loading
from pipelines.runtime.stage import task
from pipelines.studies.compare import CAPTIONS, LABELS, MAIN, rows, shares_by_variant
from pipelines.studies.outcome import Outcome
from pipelines.studies.words import sentences, summary
from pipelines.studies.workspace import BASE, Variant, Workspace, remembered

matplotlib.use("Agg")
ROUNDS = 5
SPEED = "captions/s"


class Size(BaseModel):
    """An LLM whose size the study compares."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    llm: str
    """Folder or name on the hub."""
    settings: dict[str, Any] = Field(default_factory=lambda: {"template": PROMPT})
    """Settings of `EncoderConfig`."""

    @property
    def variant(self) -> Variant:
        return Variant(name=self.name, reading=StudyReading(llm=self.llm, settings=self.settings))


def study(workspace: Workspace) -> Outcome:
    """Train the smaller LLMs where they are missing, then an adapter on each size."""
    sizes = read_sizes(workspace.llms) if workspace.llms is not None else embedded_sizes(workspace)
    found = shares_by_variant(workspace, [BASE, *(size.variant for size in sizes)])
    costs = [measured(workspace, size) for size in sizes]
    largest = sizes[-1].name
    table = rows(found, largest)
    for row, cost in zip(table, [{"parameters": None, SPEED: None}, *costs], strict=True):
        row.update(cost)
    return Outcome(
        rows=table,
        summary=summary(table, largest, "parameters", SPEED),
        figure=plot(table[1:]),
        finding=findings(table, largest),
    )


def embedded_sizes(workspace: Workspace) -> list[Size]:
    """Return the embedded family, smallest first: two Llamas trained for this study, the embedded Phi and Llama."""
    made = [trained_llm(workspace, name) for name in ("llama-tiny", "llama-small")]
    return [
        *(Size(name=folder.name, llm=str(folder)) for folder in made),
        Size(name="phi (embedded)", llm=str(PHI)),
        Size(name="llama (embedded)", llm=str(LLAMA)),
    ]


def read_sizes(path: Path) -> list[Size]:
    """Return the LLMs of a YAML file, smallest first, as `infra/recipes/scale.yaml`; ValueError where it holds none."""
    entries = yaml.safe_load(path.read_text())
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"{path}: expected a list of LLMs with name, llm and settings, found {type(entries).__name__}")
    return [Size(**entry) for entry in entries]


def trained_llm(workspace: Workspace, name: str) -> Path:
    """Return a Llama of `llmdiff.shapes.pretrain` that is trained once for this study, as the embedded ones were."""
    folder = workspace.output / f"llms-{workspace.sizes.llm_steps}" / name
    remembered(
        folder.with_suffix(".json"),
        {"steps": workspace.sizes.llm_steps},
        partial(train_llm, folder, workspace.sizes.llm_steps),
    )
    return folder


@task("train LLM")
def train_llm(folder: Path, steps: int) -> str:
    """Train a Llama on captions and their restated facts; no picture is seen."""
    pretrain_llm(folder.parent, folder.name, steps)
    return str(folder)


def measured(workspace: Workspace, size: Size) -> dict[str, Any]:
    """Return the LLM's parameters, and the captions that it encodes a second, measured once."""
    captions = [prompt.text for prompt in workspace.prompts][: workspace.sizes.captions]
    about = {**size.model_dump(), "captions": len(captions)}
    path = workspace.output / "scale" / f"{size.name.replace('/', '-')}.json"
    found: dict[str, Any] = remembered(path, about, partial(measure, size, captions))
    return found


def measure(size: Size, captions: list[str]) -> dict[str, Any]:
    """Measure parameters and captions a second, the median of a few rounds, without looking at earlier results."""
    quieten_loading()
    assert size.variant.reading is not None
    encoder = size.variant.reading.load(str(DIFFUSION))
    assert isinstance(encoder, Encoder)
    encoder(captions[:2])
    seconds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        encoder(captions)
        seconds.append(time.perf_counter() - start)
    parameters = sum(parameter.numel() for parameter in encoder.llm.model.parameters())
    return {"parameters": parameters, SPEED: len(captions) / float(np.median(seconds))}


def findings(table: list[dict[str, Any]], largest: str) -> list[str]:
    """Say what the largest brings over each smaller one, and at what price."""
    of_largest = next(row[SPEED] for row in table if row["variant"] == largest)
    quicker = [
        f"{row['variant']} {row[SPEED] / of_largest:.1f} times"
        for row in table
        if row["variant"] not in (BASE.name, largest)
    ]
    price = [f"Captions encoded a second are more with the smaller ones: {', '.join(quicker)} as many."]
    return [*sentences(table, largest, without=[BASE.name]), *(price if quicker else [])]


def plot(table: list[dict[str, Any]]) -> Figure:
    """Plot both facts against the cost of encoding."""
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    axes = figure.subplots(1, len(MAIN), sharey=True)
    costs = [1e3 / row[SPEED] for row in table]
    for axis, fact in zip(axes, MAIN, strict=True):
        for wording in CAPTIONS:
            estimates: list[Estimate] = [row[f"{fact}, {LABELS[wording]}"] for row in table]
            values = np.array(estimates)
            errors = np.abs(values[:, 1:].T - values[:, 0])
            axis.errorbar(costs, values[:, 0], yerr=errors, fmt="o", capsize=2, markersize=4, label=LABELS[wording])
        names = [row["variant"].replace(" ", "\n") for row in table]
        axis.set_xticks(costs, [f"{name}\n{cost:.2f}" for name, cost in zip(names, costs, strict=True)], fontsize=7)
        axis.set_title(fact, fontsize=10)
        axis.set_ylim(0, 1.02)
        axis.set_xlabel("milliseconds a caption")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=2, fontsize=9)
    return figure
