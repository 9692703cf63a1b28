"""Effects of the settings that the paper leaves open, on the encodings and on pictures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from llmdiff.encoder import Encoder
from llmdiff.shapes import DIFFUSION
from llmdiff.studies.estimates import share
from llmdiff.studies.geometry import geometry, overlap
from llmdiff.studies.readings import StudyReading
from pipelines.runtime.progress import advance, progress, quieten_loading
from pipelines.studies.compare import MAIN, pooled, rows
from pipelines.studies.llm import StudyLLM
from pipelines.studies.outcome import Outcome
from pipelines.studies.words import sentences, signs, summary
from pipelines.studies.workspace import Shares, Variant, Workspace, remembered
from storage.hashing import canonical_json, content_hash

matplotlib.use("Agg")
DEFAULT = "default"
NOISES = {0.05: "h 0.01", 0.15: "h 0.1", 0.5: "h 1"}
"""Shares of an encoding's norm that noise takes, and `h` for them on the embedded LLM."""

Setting = tuple[Variant, bool]
"""A variant of the encoder's settings with one training, and whether pictures are scored too."""


def study(workspace: Workspace) -> Outcome:
    """Measure every setting's encodings, and score the pictures of some after a training of the same length."""
    default = setting(workspace.llm, DEFAULT)
    norm = encoding_figures(workspace, default[0])["norm"]
    compared = [default, *variants(workspace.llm, norm)]
    figures = {variant.name: encoding_figures(workspace, variant) for variant, _ in compared}
    found = {variant.name: workspace.shares(variant) for variant, trained in compared if trained}
    scored = {row["variant"]: row for row in rows(found, DEFAULT)}
    table = [
        {"setting": name, **figure, **{column: scored.get(name, {}).get(column) for column in columns()}}
        for name, figure in figures.items()
    ]
    return Outcome(rows=table, summary=few_columns(table), figure=plot(figures, found), finding=findings(table))


def setting(llm: StudyLLM, name: str, trained: bool = True, **settings: Any) -> Setting:
    """Return a setting of the score difference."""
    return Variant(name=name, reading=llm.reading(**settings), seeds=1), trained


def variants(llm: StudyLLM, norm: float) -> list[Setting]:
    """Return all settings but the default, whose encodings' norm is `norm`."""
    (low, weak), (middle, some), (high, strong) = noises(llm, norm).items()
    return [
        *parts(llm),
        setting(llm, "g linear", g="linear"),
        setting(llm, "g cosine", trained=False, g="cosine"),
        setting(llm, "g ddpm", trained=False, g="ddpm"),
        setting(llm, "word path isolated", word_path="isolated"),
        setting(llm, "c_T zeros", initial="zeros"),
        setting(llm, "c_T noise", trained=False, initial="noise"),
        setting(llm, f"noise fresh, {low}", trained=False, noise="fresh", h=weak),
        setting(llm, f"noise cached, {low}", trained=False, noise="cached", h=weak),
        setting(llm, f"noise cached, {middle}", trained=False, noise="cached", h=some),
        setting(llm, f"noise cached, {high}", noise="cached", h=strong),
        setting(llm, "noise cached, h linear", trained=False, noise="cached", h=f"linear:{weak}"),
    ]


def noises(llm: StudyLLM, norm: float) -> dict[str, float]:
    """Return `h` by its name, weakest first: noise of norm sqrt(2 h T d) is the same share of any LLM's encodings."""
    if llm.embedded:
        return {text: float(text.removeprefix("h ")) for text in NOISES.values()}
    return {
        f"{share:.0%} of the norm": float(f"{(share * norm) ** 2 / (2 * llm.blocks * llm.width):.3g}")
        for share in NOISES
    }


def parts(llm: StudyLLM) -> list[Setting]:
    """Return settings of ``g`` that use one to four fifths of the blocks, nearest to the embedding or to the output.

    Pictures are scored for two fifths.
    """
    counts = {max(1, round(llm.blocks * fifths / 5)): fifths == 2 for fifths in (1, 3, 4, 2)}
    found = []
    for end in ("first", "last"):
        for count, trained in sorted(counts.items()):
            g = [1.0] * count + [0.0] * (llm.blocks - count)
            name = f"{end} block" if count == 1 else f"{end} {count} blocks"
            found.append(setting(llm, name, trained, g=g if end == "first" else g[::-1]))
    return found


def columns() -> list[str]:
    """Name the columns of the scored pictures: the differences alone."""
    return [f"{fact}, over {DEFAULT}" for fact in MAIN]


def encoding_figures(workspace: Workspace, variant: Variant) -> dict[str, float]:
    """Return norm, rank, agreement between seeds, non-finite share and overlap of a setting's encodings."""
    assert variant.reading is not None
    reading = variant.reading
    captions = [prompt.text for prompt in workspace.prompts][: workspace.sizes.captions]
    about = {"reading": reading.model_dump(), "captions": len(captions)}
    path = workspace.output / "stability" / "encodings" / f"{content_hash(canonical_json(about).encode())[:12]}.json"

    def measure() -> dict[str, float]:
        quieten_loading()
        encoder, reseeded = load(reading, 0), load(reading, 1)
        with progress(f"encode {variant.name}", 1, "setting"):
            found = {**geometry(encoder, captions, reseeded), **overlap(encoder, captions[:50])}
            advance(1)
        return found

    return {name: float(value) for name, value in remembered(path, about, measure).items()}


def load(reading: StudyReading, seed: int) -> Encoder:
    """Load a reading's encoder under a seed."""
    encoder = reading.model_copy(update={"settings": {**reading.settings, "seed": seed}}).load(str(DIFFUSION))
    assert isinstance(encoder, Encoder)
    return encoder


def findings(table: list[dict[str, Any]]) -> list[str]:
    """Say what the settings do to pictures, and whether any breaks the encodings."""
    broken = [str(row["setting"]) for row in table if row["nonfinite"] > 0]
    return [
        *sentences(table, DEFAULT),
        "Each setting was trained on once.",
        f"Encodings that are not finite: {', '.join(broken) or 'none'}.",
    ]


def few_columns(table: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the scored settings with what they do to the encodings' rank and to pictures."""
    scored = [row for row in table if row["setting"] == DEFAULT or signs(row, DEFAULT)]
    return summary(scored, DEFAULT, columns=("rank", *columns()))


def plot(figures: dict[str, dict[str, float]], found: dict[str, Shares]) -> Figure:
    """Plot effective rank, agreement between seeds, and both image metrics, a line a setting."""
    names = list(figures)
    places = np.arange(len(names))
    figure = Figure(figsize=(11, 0.3 * len(names) + 1.2), layout="constrained")
    axes = figure.subplots(1, 4, sharey=True)
    bars: list[tuple[str, Callable[[str], float]]] = [
        ("effective rank", lambda name: figures[name]["rank"]),
        ("cosine between seeds", lambda name: figures[name]["seed_cosine"]),
    ]
    for axis, (title, value) in zip(axes, bars, strict=False):
        axis.barh(places, [value(name) for name in names])
        axis.set_title(title, fontsize=10)
    for axis, fact in zip(axes[2:], MAIN, strict=True):
        gaps = [
            (place, share(pooled(found[name], fact)))
            for place, name in zip(places, names, strict=True)
            if name in found
        ]
        values = np.array([estimate for _, estimate in gaps])
        errors = np.abs(values[:, 1:].T - values[:, 0])
        axis.errorbar(values[:, 0], [place for place, _ in gaps], xerr=errors, fmt="o", markersize=4, capsize=2)
        axis.set_title(fact, fontsize=10)
        axis.set_xlim(-0.02, 1.02)
    axes[0].set_yticks(places, names, fontsize=8)
    axes[0].invert_yaxis()
    return figure
