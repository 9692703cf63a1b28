"""The report's figures and pages, on pictures whose verdicts are known."""

import json

import numpy as np
import pytest

from llmdiff.evaluation import Evaluation, held_out_prompts
from llmdiff.shapes.evaluator import FACTS, score_facts
from llmdiff.shapes.render import render_scene
from pipelines.reports.demo import WORDING_NAMES, build_report, sample_grid, summary, write_report


def _evaluation(prompts, right: dict[str, float]) -> Evaluation:
    """Pictures of which the given share of each wording is true and the rest grey."""
    counts = dict.fromkeys(right, 0)
    total = len(prompts) // len(WORDING_NAMES)
    pictures = []
    for prompt in prompts:
        counts[prompt.category] += 1
        drawn = render_scene(prompt.scene)
        pictures.append(drawn if counts[prompt.category] <= right[prompt.category] * total else np.full_like(drawn, 64))
    return Evaluation(prompts, np.stack(pictures), score_facts(pictures, [prompt.scene for prompt in prompts]))


@pytest.fixture(scope="module")
def evaluations() -> dict[str, Evaluation]:
    prompts = held_out_prompts(20)
    return {
        "base": _evaluation(prompts, {"template": 1.0, "natural": 0.1, "unseen_wording": 0.0}),
        "adapter": _evaluation(prompts, {"template": 0.9, "natural": 0.9, "unseen_wording": 0.6}),
        "control": _evaluation(prompts, {"template": 0.8, "natural": 0.7, "unseen_wording": 0.2}),
    }


@pytest.fixture(scope="module")
def report(evaluations) -> dict:
    store = {"captions": 60, "bytes_per_caption": 6400.0, "version": 3}
    registry = {"model": "llmdiff-adapter", "version": 1, "alias": "candidate"}
    return build_report(evaluations, {"encode": 1.23, "train": 4.0, "evaluate": 2.0}, store, registry)


def test_report_holds_every_line(report) -> None:
    assert report["prompts"] == 60
    assert report["seeds"] == 20
    for model in ("base", "adapter", "control"):
        assert set(report[model]) == {"template", "natural", "unseen_wording"}
        for wording, shares in report[model].items():
            assert set(shares) == set(FACTS)
            for fact, share in shares.items():
                low, high = report["intervals"][model][wording][fact]
                assert low <= share <= high
    recovered = report["gap_recovered"]["adapter"]["natural"]["binding"]
    assert recovered["value"] == pytest.approx(0.8 / 0.9)
    assert recovered["interval"][0] < recovered["value"] < recovered["interval"][1]


def test_summary_says_the_figures_in_words(report) -> None:
    text = " ".join(summary(report))
    assert "89% of the gap in binding" in text
    assert "adapter on the LLM 0.90" in text
    assert "Relation on wordings that no picture was paired with" in text
    assert "the adapter on the base's text features recovers 67% of the gap in binding" in text


def test_sample_grid_alternates_wordings(evaluations) -> None:
    titles = [axis.get_title() for axis in sample_grid(evaluations, rows=4).axes if axis.get_title()]
    assert len(titles) == 4
    assert ["unseen" in title for title in titles] == [False, True, False, True]


def test_written_report_is_self_contained(tmp_path, report, evaluations) -> None:
    layers = [{"layer": "mid_block.attn2", "original": 0.9, "new": 0.2}]
    rows = [{"step": step, "loss": 1 / step, "weights": layers} for step in range(1, 60)]
    runs = {}
    for name in ("adapter", "control"):
        runs[name] = tmp_path / f"{name}.jsonl"
        runs[name].write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_report(tmp_path / "out", report, evaluations, runs, {"data": "60 <drawn> pictures"})
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 4
    assert "60 &lt;drawn&gt; pictures" in page
    assert "http" not in page.replace("data:image", "")
    assert json.loads((tmp_path / "out" / "report.json").read_text())["registry"]["version"] == 1
    assert (tmp_path / "out" / "samples.png").read_bytes().startswith(b"\x89PNG")
