"""What the settings that the paper leaves open do to the encodings, and what to the pictures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from llmdiff.encoder import Encoder
from llmdiff.shapes import DIFFUSION
from llmdiff.shapes.captions import PROMPT
from llmdiff.studies.estimates import share
from llmdiff.studies.geometry import geometry, overlap
from llmdiff.studies.readings import Reading
from pipelines.runtime.progress import advance, progress, quieten_loading
from pipelines.studies.compare import MAIN, gaps, pooled, rows
from pipelines.studies.outcome import Outcome
from pipelines.studies.workspace import Shares, Variant, Workspace, remembered
from storage.hashing import canonical_json, content_hash

matplotlib.use("Agg")
BLOCKS = 5
"""Number of blocks of the embedded LLM."""


def setting(name: str, trained: bool = True, **settings: Any) -> tuple[Variant, bool]:
    """A variant of the encoder's settings with one training, and whether pictures are scored too."""
    return Variant(name=name, reading=Reading(settings={"template": PROMPT, **settings}), seeds=1), trained


def first(count: int) -> list[float]:
    """``g`` that uses the blocks nearest to the embedding alone."""
    return [1.0] * count + [0.0] * (BLOCKS - count)


def last(count: int) -> list[float]:
    """``g`` that uses the blocks nearest to the output alone."""
    return [0.0] * (BLOCKS - count) + [1.0] * count


DEFAULT = setting("default")
VARIANTS = [
    DEFAULT,
    setting("first block", trained=False, g=first(1)),
    setting("first 2 blocks", g=first(2)),
    setting("first 3 blocks", trained=False, g=first(3)),
    setting("first 4 blocks", trained=False, g=first(4)),
    setting("last block", trained=False, g=last(1)),
    setting("last 2 blocks", g=last(2)),
    setting("last 3 blocks", trained=False, g=last(3)),
    setting("last 4 blocks", trained=False, g=last(4)),
    setting("g linear", g="linear"),
    setting("g cosine", trained=False, g="cosine"),
    setting("g ddpm", trained=False, g="ddpm"),
    setting("word path isolated", word_path="isolated"),
    setting("c_T zeros", initial="zeros"),
    setting("c_T noise", trained=False, initial="noise"),
    setting("noise fresh, h 0.01", trained=False, noise="fresh", h=0.01),
    setting("noise cached, h 0.01", trained=False, noise="cached", h=0.01),
    setting("noise cached, h 0.1", trained=False, noise="cached", h=0.1),
    setting("noise cached, h 1", noise="cached", h=1.0),  # half of an encoding's norm
    setting("noise cached, h linear", trained=False, noise="cached", h="linear:0.01"),
]


def study(workspace: Workspace) -> Outcome:
    """Figures of every setting's encodings, and pictures of some after a training of the same length."""
    figures = {variant.name: encoding_figures(workspace, variant) for variant, _ in VARIANTS}
    found = {variant.name: workspace.shares(variant) for variant, trained in VARIANTS if trained}
    scored = {row["variant"]: row for row in rows(found, "default")}
    table = [
        {"setting": name, **figure, **{column: scored.get(name, {}).get(column) for column in columns()}}
        for name, figure in figures.items()
    ]
    return Outcome(rows=table, figure=plot(figures, found), finding=findings(figures, found))


def columns() -> list[str]:
    """Name the columns of the scored pictures: the differences alone."""
    return [f"{fact}, over default" for fact in MAIN]


def encoding_figures(workspace: Workspace, variant: Variant) -> dict[str, float]:
    """Norm, rank, agreement between seeds, non-finite share, overlap of a setting's encodings; measured once."""
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


def load(reading: Reading, seed: int) -> Encoder:
    """A reading's encoder under a seed."""
    encoder = Reading(settings={**reading.settings, "seed": seed}).load(str(DIFFUSION))
    assert isinstance(encoder, Encoder)
    return encoder


def findings(figures: dict[str, dict[str, float]], found: dict[str, Shares]) -> list[str]:
    """What the settings do to pictures, and whether any breaks the encodings."""
    sentences = []
    for fact in MAIN:
        signs = {name: -gap.sign for name, gap in gaps(found, "default", fact).items()}
        for sign, text in ((-1, "lower"), (1, "raise"), (0, "change nothing that shows in")):
            names = [name for name, found_sign in signs.items() if found_sign == sign]
            if names:
                sentences.append(f"With one training each, these {text} {fact}: {', '.join(names)}.")
    broken = [name for name, figure in figures.items() if figure["nonfinite"] > 0]
    sentences.append(f"Encodings that are not finite: {', '.join(broken) or 'none'}.")
    ranks = {name: figure["rank"] for name, figure in figures.items()}
    low, high = min(ranks, key=lambda name: ranks[name]), max(ranks, key=lambda name: ranks[name])
    sentences.append(f"Effective rank is from {ranks[low]:.0f} ({low}) to {ranks[high]:.0f} ({high}).")
    default = figures["default"]
    sentences.append(
        f"Sentence and word scores have a mean cosine of {default['overlap']:.2f}; their difference is less than a "
        f"tenth of the sentence score at {default['degenerate']:.1%} of tokens and blocks."
    )
    return sentences


def plot(figures: dict[str, dict[str, float]], found: dict[str, Shares]) -> Figure:
    """Effective rank, agreement between seeds, and both image metrics, a line a setting."""
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
