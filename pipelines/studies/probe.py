"""The findings of probes in encodings, against what adapters that are trained on them draw."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from llmdiff.probe.captions import ProbeCaptions
from llmdiff.probe.fit import Figures, ProbeConfig
from llmdiff.probe.probing import REFINER, encode_by, run_probes
from llmdiff.shapes import DIFFUSION, PHI
from llmdiff.studies.estimates import Estimate, share
from llmdiff.studies.rank_correlation import LEAST, rank_correlation
from llmdiff.studies.readings import StudyReading
from pipelines.runtime.progress import progress, quieten_loading
from pipelines.studies import smollm2
from pipelines.studies.compare import MAIN, pooled, shares_by_variant
from pipelines.studies.llm import EMBEDDED, StudyLLM, read_llm
from pipelines.studies.outcome import Outcome
from pipelines.studies.workspace import Shares, Variant, Workspace, remembered
from storage.hashing import canonical_json, content_hash

matplotlib.use("Agg")
PROBES = {"on top": 0, "in reach": REFINER}
"""Blocks of the refiner in each probe."""
TRAINING = 6
"""Number of captions that a probe learns on, for each that it is asked about in either wording."""
ALL, OTHERS = "all", "not trained to answer"
"""Groups of encoders: the second is without the embedded LLMs that answer at single tokens what a caption means."""
ANSWERING = ("llama, ", "phi, ")
"""Beginnings of the names of encoders of those."""

Correlations = dict[tuple[str, str, str], Estimate]
"""Rank correlations by group of encoders, probe and fact."""
Probed = dict[str, dict[str, Figures]]
"""Figures by encoder and probe."""


def study(workspace: Workspace) -> Outcome:
    """Probe every encoder's encodings, and train an adapter on them."""
    chosen = variants()
    probed = {variant.name: probe_figures(workspace, variant) for variant in chosen}
    found = shares_by_variant(workspace, chosen)
    correlations = correlated(probed, found)
    facts = {"correlations": {", ".join(of): rho for of, rho in correlations.items()}}
    return Outcome(
        rows=rows(probed, found),
        summary=summary(correlations),
        figure=plot(probed, found),
        finding=findings(correlations, found),
        facts=facts,
    )


def variants() -> list[Variant]:
    """Return the encoders: both embedded LLMs with and without questions, CLIP, and a real LLM where there is one."""
    llama, phi = replace(EMBEDDED, name="llama"), replace(EMBEDDED, name="phi", source=str(PHI), width=128)
    found = [variant(llm, reading) for llm in (llama, phi) for reading in ("score", "last", "mean", "layer:2")]
    unasked = replace(llama, name="llama without questions", template="{caption}")
    found += [variant(unasked, reading) for reading in ("score", "mean")]
    found.append(Variant(name="CLIP", reading=StudyReading(kind="base"), seeds=1))
    if smollm2.is_there(folder := smollm2.location()):
        real = read_llm(str(folder))
        deep = f"layer:{three_fifths(real)}"
        found += [variant(real, reading) for reading in ("score", "score_norm", "norm_mean", "last", deep)]
    return found


def three_fifths(llm: StudyLLM) -> int:
    """Return the layer at three fifths of an LLM's depth."""
    return round(3 * llm.blocks / 5)


def variant(llm: StudyLLM, reading: str) -> Variant:
    """Return an encoder with one training. The score is left unsaid, as in other studies, which share what is made."""
    settings = {} if reading == "score" else {"reading": reading}
    return Variant(name=f"{llm.name}, {reading}", reading=llm.reading(**settings), seeds=1)


def probe_figures(workspace: Workspace, variant: Variant) -> dict[str, Figures]:
    """Return the figures of both probes on an encoder's encodings; measure them once."""
    assert variant.reading is not None
    reading, sizes = variant.reading, workspace.sizes
    config = ProbeConfig(captions=TRAINING * sizes.captions, tests=sizes.captions, steps=2 * sizes.steps)
    about = {"reading": reading.model_dump(), "captions": config.captions, "steps": config.steps}
    path = workspace.output / "probe" / "probes" / f"{content_hash(canonical_json(about).encode())[:12]}.json"

    def measure() -> dict[str, Figures]:
        quieten_loading()
        captions = ProbeCaptions.draw(config.captions, config.tests, config.seed)
        with progress(f"encode for the probe, {variant.name}", len(captions.all), "caption") as work:
            encodings = {variant.name: encode_by(reading.load(str(DIFFUSION)), captions.all, work.reach)}
        with progress(f"probe {variant.name}", len(PROBES), "probe") as work:
            found = {}
            for done, (probe, refiner) in enumerate(PROBES.items(), 1):
                found[probe] = run_probes(encodings, captions, refiner, config)[variant.name]
                work.reach(done)
        return found

    return {probe: Figures(*figures) for probe, figures in remembered(path, about, measure).items()}


def of_fact(figures: Figures, fact: str) -> float:
    """Return a probe's share right in one fact, the mean of both wordings."""
    return float(getattr(figures, fact) + getattr(figures, f"new_{fact}")) / 2


def groups(names: Iterable[str]) -> dict[str, list[str]]:
    """Return all encoders, and those that were not trained to answer, where these are enough to have an order."""
    every = list(names)
    others = [name for name in every if not name.startswith(ANSWERING)]
    return {ALL: every} | ({OTHERS: others} if LEAST <= len(others) < len(every) else {})


def correlated(probed: Probed, found: dict[str, Shares]) -> Correlations:
    """Return by group, probe and fact how well the probe's order is that of the adapters, over both wordings."""
    return {
        (group, probe, fact): rank_correlation(
            {name: of_fact(probed[name][probe], fact) for name in names},
            {name: float(pooled(found[name], fact).mean()) for name in names},
        )
        for group, names in groups(found).items()
        for probe in PROBES
        for fact in MAIN
    }


def rows(probed: Probed, found: dict[str, Shares]) -> list[dict[str, Any]]:
    """Return a row an encoder: what the probes and the adapter get right, over both wordings."""
    table = []
    for name, shares in found.items():
        row: dict[str, Any] = {"encoder": name}
        for fact in MAIN:
            row |= {f"{fact}, {probe}": of_fact(probed[name][probe], fact) for probe in PROBES}
            row[f"{fact}, adapter"] = share(pooled(shares, fact))
        table.append(row)
    return table


def findings(correlations: Correlations, names: Iterable[str]) -> list[str]:
    """Say how well each probe tells the order of the adapters, in each group of encoders."""
    told = []
    for group, members in groups(names).items():
        parts = [
            f"{probe}, {' and '.join(f'{correlations[group, probe, fact].value:.2f} in {fact}' for fact in MAIN)}"
            for probe in PROBES
        ]
        which = f"all {len(members)} encoders" if group == ALL else f"the {len(members)} encoders {group}"
        told.append(
            f"Probes put {which} in the order of the adapters trained on them with a rank correlation of, "
            f"{'; '.join(parts)}."
        )
        unsure = [f"{p}, {fact}" for p in PROBES for fact in MAIN if correlations[group, p, fact].sign <= 0]
        if unsure:
            told.append(f"Nothing shows that these tell the order of {which}: {'; '.join(unsure)}.")
    return told


def summary(correlations: Correlations) -> list[dict[str, Any]]:
    """Return a row a group and probe: the rank correlation with the adapters, a column a fact."""
    return [
        {"encoders": group, "probe": probe, **{fact: correlations[group, probe, fact] for fact in MAIN}}
        for group, probe in dict.fromkeys((group, probe) for group, probe, _ in correlations)
    ]


def plot(probed: Probed, found: dict[str, Shares]) -> Figure:
    """Plot a panel a fact, a point an encoder and probe: what the probe gets right, and what the adapter does."""
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    axes = figure.subplots(1, len(MAIN), sharey=True)
    for axis, fact in zip(axes, MAIN, strict=True):
        drawn = [float(pooled(shares, fact).mean()) for shares in found.values()]
        for probe, marker in zip(PROBES, "ox", strict=True):
            axis.scatter([of_fact(probed[name][probe], fact) for name in found], drawn, marker=marker, label=probe)
        axis.set_title(fact, fontsize=10)
        axis.set_xlim(-0.02, 1.02)
        axis.set_ylim(-0.02, 1.02)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("right in the trained adapter's pictures", fontsize=9)
    figure.supxlabel("right of what the probe is asked", fontsize=9)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=2, fontsize=9)
    return figure
