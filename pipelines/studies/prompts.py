"""Controlled prompts: two things, and one word changed at a time."""

from __future__ import annotations

import io
import json
import textwrap
from dataclasses import replace
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from llmdiff.evaluation import held_out_prompts
from llmdiff.shapes.evaluator import FACTS, score_facts
from llmdiff.shapes.scene import Scene, Thing
from llmdiff.studies.estimates import share
from llmdiff.studies.readings import StudyReading
from pipelines.runtime.progress import progress
from pipelines.studies.outcome import Outcome
from pipelines.studies.scoring import StudyModel, drawn
from pipelines.studies.words import brief
from pipelines.studies.workspace import BASE, MODEL_KEY, Variant, Workspace
from storage.hashing import canonical_json, content_hash
from storage.io.files import write_file

matplotlib.use("Agg")
CLIP = Variant(name="CLIP", reading=StudyReading(kind="base"))
KINDS = {  # one word away from the first
    "as it is": ("red circle", "blue square", "left of"),
    "other colour": ("green circle", "blue square", "left of"),
    "other shape": ("red triangle", "blue square", "left of"),
    "other side": ("red circle", "blue square", "right of"),
    "colours swapped": ("blue circle", "red square", "left of"),
}
WORDINGS = {  # the first is the base's own template; training showed the second
    "the base's template": "a {x} {r} a {y}",
    "a wording of training": "there is a {y} and to the {r} it is a {x}",
    "a new wording": "look to the {r} the {y} and you will find a {x}",
}


def variants(workspace: Workspace) -> list[Variant]:
    """Return the base, the paper's adapter, and CLIP."""
    return [BASE, workspace.paper, CLIP]


def study(workspace: Workspace) -> Outcome:
    """Collect every prompt's verdicts over several noises and trainings, and show the pictures of the first of both."""
    texts = controlled()
    rows: list[dict[str, Any]] = []
    pictures = {}
    for variant in variants(workspace):
        found = [verdicts_on(workspace, workspace.model(variant, seed), texts) for seed in workspace.seeds(variant)]
        pictures[variant.name] = found[0]["pictures"]
        for wording in WORDINGS:
            chosen = [i for i, (of, _, _) in enumerate(texts) if of == wording]
            row: dict[str, Any] = {"model": variant.name, "wording": wording, "trainings": len(found)}
            verdicts = {fact: np.array([one[fact][chosen].ravel() for one in found]) for fact in FACTS}
            rows.append(row | {fact: share(verdict) for fact, verdict in verdicts.items()})
    return Outcome(rows=rows, summary=summary(rows), figure=plot(texts, pictures), finding=findings(rows))


def controlled() -> list[tuple[str, str, Scene]]:
    """Return (wording, text, scene) of every prompt."""
    found = []
    for wording, form in WORDINGS.items():
        for first, second, relation in KINDS.values():
            things = (thing(first), thing(second))
            text = form.format(x=f"large {first}", y=f"large {second}", r=relation)
            found.append((wording, text, Scene(things, (relation,))))
    return found


def thing(kind: str) -> Thing:
    """Return a large coloured shape; where it is does not matter to the evaluator."""
    colour, shape = kind.split()
    return Thing(colour, shape, "large")


def verdicts_on(workspace: Workspace, model: StudyModel, texts: list[tuple[str, str, Scene]]) -> dict[str, np.ndarray]:
    """Return verdicts ``(prompt, noise)`` on each kind of fact, and the first noise's ``pictures``; draw them once."""
    noises = max(1, workspace.sizes.scenes // 5)
    about = {
        MODEL_KEY: json.loads(model.model_dump_json()),
        "texts": [text for _, text, _ in texts],
        "noises": noises,
    }
    path = workspace.scored / f"{content_hash(canonical_json(about).encode())[:12]}.npz"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        data = io.BytesIO()
        np.savez(data, allow_pickle=False, **draw(model, texts, noises))
        write_file(path, data.getvalue())
    with np.load(path) as found:
        return dict(found)


def draw(model: StudyModel, texts: list[tuple[str, str, Scene]], noises: int) -> dict[str, np.ndarray]:
    """Draw the prompts and return their verdicts, without looking at earlier results."""
    some = held_out_prompts(1)[0]
    prompts = [replace(some, text=text, scene=scene, seed=noise) for _, text, scene in texts for noise in range(noises)]
    with progress("draw controlled prompts", len(prompts), "picture"):
        pictures = drawn(model, prompts).pictures
    verdicts = score_facts(list(pictures), [scene for _, _, scene in texts for _ in range(noises)])
    found = {fact: verdict.reshape(len(texts), noises) for fact, verdict in verdicts.items()}
    return {**found, "pictures": np.array(pictures[::noises])}


def findings(rows: list[dict[str, Any]]) -> list[str]:
    """Say in what share of pictures both things and their relation are right, from the worst wording to the best."""
    found: dict[str, list[float]] = {}
    for row in rows:
        found.setdefault(row["model"], []).append(row["relation"].value)
    parts = [f"{model} {min(values):.2f} to {max(values):.2f}" for model, values in found.items()]
    return [f"Share of pictures with both things and their relation as stated, by wording: {', '.join(parts)}."]


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a row a model, a column a wording: the share in which both things and their relation are as stated."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        line = found.setdefault(row["model"], {"both things and their relation": row["model"]})
        line[row["wording"]] = brief(row["relation"])
    return list(found.values())


def plot(texts: list[tuple[str, str, Scene]], pictures: dict[str, np.ndarray]) -> Figure:
    """Plot a row a model, a column a prompt: from the base's template, and in a new wording."""
    chosen = [i for i, (wording, _, _) in enumerate(texts) if wording != "a wording of training"]
    figure = Figure(figsize=(1.25 * len(chosen), 1.15 * len(pictures) + 0.7), layout="constrained")
    axes = figure.subplots(len(pictures), len(chosen), squeeze=False)
    for line, (name, drawn_by) in zip(axes, pictures.items(), strict=True):
        for axis, i in zip(line, chosen, strict=True):
            axis.imshow(drawn_by[i], interpolation="nearest")
            axis.set_xticks([])
            axis.set_yticks([])
        line[0].set_ylabel(name, fontsize=8)
    for axis, i in zip(axes[0], chosen, strict=True):
        axis.set_title("\n".join(textwrap.wrap(texts[i][1], 18)), fontsize=6)
    return figure
