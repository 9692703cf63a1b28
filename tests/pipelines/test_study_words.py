"""What studies say of verdicts that are made up: tables, findings that follow the intervals, pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmdiff.encoder import Encoder
from llmdiff.probe.fit import Figures
from llmdiff.shapes import DIFFUSION
from llmdiff.shapes.captions import WORDINGS
from llmdiff.shapes.evaluator import FACTS
from llmdiff.studies.estimates import Estimate
from pipelines.studies import closed, encodings, latency, pathways, probe, prompts, real, scale, stability, weights
from pipelines.studies.compare import MAIN, rows, shares_plot
from pipelines.studies.llm import EMBEDDED
from pipelines.studies.outcome import markdown, plain
from pipelines.studies.words import beside, sentences, summary
from pipelines.studies.workspace import PAPER, Sizes, Workspace
from tests.pipelines.test_study_variants import DEEP

SCENES = 60


def shares(level: float, template: float | None = None) -> dict[str, dict[str, np.ndarray]]:
    """Verdicts of two trainings that hold for the first `level` of the scenes."""

    def verdicts(share: float) -> np.ndarray:
        return np.tile((np.arange(SCENES) < share * SCENES).astype(float), (2, 1))

    levels = {wording: level if wording != "template" or template is None else template for wording in WORDINGS}
    return {wording: {fact: verdicts(levels[wording]) for fact in FACTS} for wording in WORDINGS}


def compared(levels: dict[str, float], reference: str) -> list[dict[str, Any]]:
    """The table of variants of such levels beside one of them."""
    return rows({name: shares(level) for name, level in levels.items()}, reference)


def test_a_table_tells_shares_and_differences() -> None:
    table = rows({"one": shares(0.5), "other": shares(0.8)}, "one")
    assert table[0]["binding, over one"] is None
    assert table[1]["binding, over one"].value == pytest.approx(0.3)
    assert table[1]["binding, new wordings"].value == pytest.approx(0.8)
    lines = markdown(table).splitlines()
    assert lines[0].startswith("| variant | trainings | binding, wordings of training |")
    assert "| 0.80 (" in lines[3]
    assert plain(table[1])["relation, over one"]["value"] == pytest.approx(0.3)
    assert len(shares_plot({"one": shares(0.5)}).axes) == 2


def test_the_formula_earns_its_place_over_what_it_beats_alone() -> None:
    levels = {
        "base": 0.1,
        "score difference": 0.7,
        "last hidden state": 0.3,
        "a middle layer": 0.7,
        "mean of layers": 1.0,
    }
    table = compared(levels, PAPER.name)
    assert encodings.findings(table) == [
        'In binding and relation, "score difference" is better than base and "last hidden state"; can\'t be told from '
        '"a middle layer"; is worse than "mean of layers".',
        'So here the paper\'s formula earns its place over "last hidden state", and loses to "mean of layers".',
    ]
    lost = encodings.findings(compared({**levels, "score difference": 0.2, "a middle layer": 0.2}, PAPER.name))
    assert "earns its place over none of the hidden states, and loses to" in lost[-1]
    alike = encodings.findings(compared({**levels, "base": 0.7}, PAPER.name))
    assert alike[-1].endswith("does not earn its place: nothing shows that it is better than base.")


def test_a_sentence_claims_no_more_than_the_intervals() -> None:
    gaps = {"one": (-0.3, -0.1), "two": (-0.1, 0.3), "three, four": (0.1, 0.3)}
    told = {fact: {name: Estimate(sum(ends) / 2, *ends) for name, ends in gaps.items()} for fact in MAIN}
    told["relation"]["one"] = Estimate(0.0, -0.1, 0.1)
    table = [{"variant": name, **{f"{fact}, over it": told[fact][name] for fact in MAIN}} for name in gaps]
    table.append({"variant": "it", **{f"{fact}, over it": None for fact in MAIN}})
    assert sentences(table, "it") == [
        'In binding, it is better than one; can\'t be told from two; is worse than "three, four".',
        'In relation, it can\'t be told from one and two; is worse than "three, four".',
    ]
    assert sentences(table, "it", without=["one", "two"]) == [
        'In binding and relation, it is worse than "three, four".'
    ]
    assert [beside(row, "it") for row in table] == ["worse in binding", "no difference shown", "better in both", ""]


def test_a_summary_has_few_columns_without_intervals() -> None:
    (one, other) = summary(compared({"one": 0.5, "other": 0.8}, "one"), "one", "trainings")
    assert (one["beside one"], other["beside one"], other["trainings"]) == ("", "better in both", 2)
    assert other["binding, new wordings"] == "0.80"


def test_what_is_kept_counts_what_the_base_could_do_alone() -> None:
    levels = {variant.name: shares(0.2) for variant in pathways.VARIANTS}
    found = {**levels, "base": shares(0.1, template=0.5), pathways.BOTH.name: shares(0.6, template=0.25)}
    assert pathways.kept(found, pathways.BOTH.name).value == pytest.approx(0.5)

    def told(found: dict[str, Any]) -> list[str]:
        kept = {name: pathways.kept(found, name) for name in found}
        return pathways.findings(
            [row | {pathways.KEPT: kept[row["variant"]]} for row in rows(found, pathways.BOTH.name)]
        )

    assert "both paths still draw 0.50 (" in told(found)[-2]
    assert told(found)[-1].endswith("the original module is needed.")
    assert told({**found, pathways.REMOVED.name: shares(0.9)})[-1].endswith("it is in the way.")
    nothing = {**found, "base": shares(0.0)}
    assert str(pathways.kept(nothing, pathways.BOTH.name)) == "not defined"


def test_weights_follow_the_size_of_a_layer_or_do_not() -> None:
    sizes = np.arange(1, 8)
    falling = np.linspace(0.9, 0.2, 7)
    assert "so it is here" in weights.findings(falling, sizes)[1]
    assert "the other way round" in weights.findings(falling[::-1], sizes)[1]
    assert "no such order" in weights.findings(falling[[3, 0, 6, 1, 5, 2, 4]], sizes)[1]
    assert "larger weight in 4 of 7 layers" in weights.findings(falling, sizes)[0]
    grown = np.ones((2, 3, 7, 2))
    grown[:, -1, 3, 1] = 8.0
    original, new = weights.summary(grown)
    assert (original["at the last"], original["its layers then"]) == ("1.00", "1.00 to 1.00")
    assert list(new.values())[1:] == ["1.00", "2.00", "1.00 to 8.00"]


def test_stability_names_settings_by_what_they_do() -> None:
    figure = {"norm": 1.0, "rank": 30.0, "seed_cosine": 1.0, "nonfinite": 0.0, "overlap": 0.5, "degenerate": 0.01}
    figures = {"default": figure, "g linear": {**figure, "rank": 2.0}, "c_T zeros": {**figure, "nonfinite": 0.1}}
    found = {"default": shares(0.7), "g linear": shares(0.2), "c_T zeros": shares(0.7)}
    table = [{"setting": row["variant"], **figures[row["variant"]], **row} for row in rows(found, "default")]
    table.append({"setting": "g ddpm", **figure, **dict.fromkeys(stability.columns())})
    told = stability.findings(table)
    assert told[0] == 'In binding and relation, default is better than "g linear"; can\'t be told from "c_T zeros".'
    assert "Encodings that are not finite: c_T zeros." in told
    assert [row["setting"] for row in stability.few_columns(table)] == list(found), "those that were trained on"
    assert len(stability.plot(figures, found).axes) == 4
    for variant, _ in stability.variants(EMBEDDED, 81.3):
        assert variant.reading is not None
        assert isinstance(variant.reading.load(str(DIFFUSION)), Encoder)


def test_a_real_llm_is_told_by_what_it_recovers(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path, Sizes(steps=1000), llm=DEEP)
    _, *trainings = real.variants(workspace)
    assert [len(workspace.seeds(variant)) for variant in trainings] == [1, 2, 1, 2, 3, 2]
    paper, *_, untaught, cheap, last = trainings
    assert (real.marks(1), real.marks(2), real.marks(7), real.marks(1000)) == ([1], [1, 2], [3, 7], [500, 1000])
    trained = workspace.training(last, 1)
    assert trained.adapter.refiner == 2
    assert trained.adapter.standardise
    assert (trained.checkpoint_every, trained.keep_checkpoints, trained.seed) == (500, 2, 1)
    assert (trained.learning_rate, workspace.training(paper, 1).learning_rate) == (1e-3, 2.5e-3)
    assert trained.layout_steps == 2000
    assert workspace.training(untaught, 1) == trained.model_copy(update={"layout_steps": 0})
    assert (trained.timestep_exponent, workspace.training(paper, 1).timestep_exponent) == (1, 0.75)
    fewer = {"steps": 400, "checkpoint_every": 400}
    assert workspace.training(cheap, 1) == trained.model_copy(update=fewer)
    levels = {paper.name: 0.2, last.name: 0.5}
    curves = {
        500: {last.name: shares(0.1)},
        1000: {"base": shares(0.1, template=0.9)} | {name: shares(level) for name, level in levels.items()},
    }
    assert (best := real.best_of(curves[1000])) == last.name
    table = real.rows(curves, best)
    assert table[2]["binding recovered, new wordings"].value == pytest.approx(0.5)
    assert table[2]["relation recovered after 500 steps"].value == 0
    assert (table[0]["binding recovered, new wordings"], table[1]["binding recovered after 500 steps"]) == (None, None)
    assert real.findings(table, best, "Deep") == [
        f'Of Deep, "{best}" is best: of what the base loses by a wording it recovers 0.50 in binding and 0.50 in '
        "relation on wordings of training, and 0.50 in binding and 0.50 in relation on new wordings.",
        f'In binding and relation, "{best}" is better than "score difference".',
        "So here the paper's formula does not earn its place: with the paper's adapter it recovers 0.12 of the "
        "relation on wordings of training.",
    ]
    with_settings = {f"{paper.name}, adapted": shares(0.4)} | curves[1000]
    told = real.findings(real.rows({1000: with_settings | {"base": curves[1000]["base"]}}, best), best, "Deep")
    assert told[-1].endswith("on wordings of training; adapted it is, beside the best: worse in both.")
    steps = {paper.name: 700, last.name: 1000}
    assert len(curve := real.points(curves, steps)) == 3 * 4
    assert {point["steps"] for point in curve if point["variant"] == paper.name} == {700}, "it has no more"
    lines = real.plot(curve).axes[0].get_lines()
    assert [line.get_label() for line in lines[:2]] == [last.name, paper.name]
    assert list(lines[0].get_ydata()) == pytest.approx([0, 0.5])


def test_what_survives_is_told_of_students_alone() -> None:
    found = {"base": shares(0.1), closed.TEACHER: shares(0.9), "all log-probabilities": shares(0.5)}
    agreed = {"all log-probabilities": {"cosine": 0.8, "r2": 0.6}}
    table = [closed.row(name, found, agreed.get(name, {})) for name in found]
    assert table[2]["relation, share of the gain"].value == pytest.approx(0.5)
    assert table[1]["relation, share of the gain"] is None
    assert "keeps 0.50 (" in closed.findings(table)[0]
    assert closed.summary(table)[2] == {
        "what is shown": "all log-probabilities",
        "R²": 0.6,
        "binding": "0.50",
        "relation": "0.50",
        closed.KEPT: "0.50",
    }


def test_controlled_prompts_differ_in_what_they_say() -> None:
    texts = prompts.controlled()
    assert len({text for _, text, _ in texts}) == len(texts) == 15
    assert texts[0][1] == "a large red circle left of a large blue square"
    verdicts = [("base", w, x) for w, x in zip(prompts.WORDINGS, (0.9, 0.0, 0.1), strict=True)]
    table = [{"model": m, "wording": w, "relation": Estimate(x, x, x)} for m, w, x in verdicts]
    assert prompts.findings(table)[0].endswith("by wording: base 0.00 to 0.90.")
    assert list(prompts.summary(table)[0].values()) == ["base", "0.90", "0.00", "0.10"]
    wording, text, scene = texts[-1]
    assert text == "look to the left of the large red square and you will find a large blue circle"
    assert [thing.kind for thing in scene.things] == ["blue circle", "red square"]


def test_a_larger_llm_is_told_with_its_price() -> None:
    speeds = {"base": None, "small": 50.0, "large": 20.0}
    table = [
        row | {scale.SPEED: speeds[row["variant"]]}
        for row in compared({"base": 0.0, "small": 0.4, "large": 0.9}, "large")
    ]
    assert scale.findings(table, "large") == [
        "In binding and relation, large is better than small.",
        "Captions encoded a second are more with the smaller ones: small 2.5 times as many.",
    ]
    assert len(scale.plot(table[1:]).axes) == 2


def test_latency_is_told_as_ratios() -> None:
    def row(what: str, value: float, unit: str = "s") -> dict[str, Any]:
        return {"what": what, "batch": "1", "median": str(value), "unit": unit, "p20": str(value), "p80": str(value)}

    table = [row("CLIP encodes", 0.1), row("phi-1.5 encodes", 0.8), row("base step", 2.0), row("adapter step", 2.2)]
    table += [row("adapter step over base step", 1.1, "times"), row("share of a picture, encoded by CLIP", 0.01, "of")]
    told = latency.findings(table, "a device")
    assert told == [
        "At batch 1, phi-1.5 encodes in 8.0 times CLIP's time; a step with the adapter takes 1.10 times the base's.",
        "Encoding takes 1.0% of a picture of 30 steps at most.",
        "Measured on: a device.",
    ]
    assert latency.summary(table)[0] == {"what": "CLIP encodes", "unit": "s", "batch 1": 0.1}
    assert len(latency.plot(table, "a device").axes) == 1


def test_estimates_that_are_no_numbers_are_null_in_json() -> None:
    assert plain({"a": [Estimate(float("nan"), 0.0, 1.0)]}) == {"a": [{"value": None, "low": 0.0, "high": 1.0}]}


def test_a_probe_is_told_by_how_well_it_orders_encoders() -> None:
    levels = dict(zip(("llama, score", "phi, score", "a", "b", "c"), (0.9, 0.7, 0.2, 0.4, 0.5), strict=True))
    found = {name: shares(level) for name, level in levels.items()}
    probed = {
        name: {"on top": Figures(level, level / 2, level, level / 3), "in reach": Figures(0.5, 0.5, 0.5, 0.5)}
        for name, level in levels.items()
    }
    probed["a"]["on top"] = Figures(0.6, 0.25, 0.6, 0.25)  # between the best and all others
    correlations = probe.correlated(probed, found)
    assert correlations["all", "on top", "binding"].value == pytest.approx(0.7)
    assert correlations["not trained to answer", "on top", "binding"].value == pytest.approx(-0.5)
    told = probe.findings(correlations, found)
    assert told[0].startswith("Probes put all 5 encoders in the order of the adapters trained on them with a rank ")
    assert "correlation of, on top, 0.70 in binding and 0.70 in relation; in reach, " in told[0]
    assert "Probes put the 3 encoders not trained to answer in the order" in told[2]
    assert told[3].startswith("Nothing shows that these tell the order of the 3 encoders not trained to answer: on to")
    assert [(row["encoders"], row["probe"]) for row in probe.summary(correlations)] == [
        (group, name) for group in ("all", "not trained to answer") for name in ("on top", "in reach")
    ]
    assert probe.groups(["llama, score", "a", "b"]) == {"all": ["llama, score", "a", "b"]}
    table = probe.rows(probed, found)
    assert table[3]["relation, on top"] == pytest.approx(0.4 * (1 / 2 + 1 / 3) / 2)
    assert table[3]["binding, adapter"].value == pytest.approx(0.4)
