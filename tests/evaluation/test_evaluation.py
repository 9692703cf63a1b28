"""Intervals cover, prompts pair, the gap recovered is what its definition says."""

import numpy as np
import pytest

from llmdiff.evaluation import Evaluation, evaluate, gap_recovered, held_out_prompts
from llmdiff.evaluation.bootstrap import interval, mean_interval
from llmdiff.shapes.captions import WORDINGS
from llmdiff.shapes.evaluator import FACTS
from llmdiff.shapes.render import render_scene


def test_prompts_pair_scenes_and_seeds_over_wordings() -> None:
    prompts = held_out_prompts(30, seed=1)
    assert len(prompts) == 30 * len(WORDINGS)
    assert prompts == held_out_prompts(30, seed=1)
    for group in (prompts[i : i + len(WORDINGS)] for i in range(0, len(prompts), len(WORDINGS))):
        assert len({(prompt.seed, prompt.scene) for prompt in group}) == 1
        assert [prompt.category for prompt in group] == list(WORDINGS)
        assert group[0].scene.held_out


def test_bootstrap_interval_covers_the_mean() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(100):
        low, high = mean_interval((rng.random(200) < 0.3).astype(float))
        covered += low <= 0.3 <= high
    assert 88 <= covered <= 100


def test_paired_interval_is_narrower_than_an_unpaired_one() -> None:
    rng = np.random.default_rng(1)
    a = rng.random(300)
    low, high = interval(lambda x, y: y - x, a, a + 0.1)
    assert low == pytest.approx(0.1)
    assert high == pytest.approx(0.1)


class TruthfulPipeline:
    """Draws what a lookup says, with the signature of a diffusers pipeline."""

    def __init__(self, pictures: dict[tuple[str, int], np.ndarray]) -> None:
        self.pictures = pictures

    def __call__(self, texts, generator, **options):
        assert options["output_type"] == "np"
        found = [self.pictures[text, g.initial_seed()] for text, g in zip(texts, generator, strict=True)]
        return type("Output", (), {"images": np.stack(found) / 255})


def _drawn(prompts, right: dict[str, float]) -> Evaluation:
    """The evaluation of a pipeline that draws the given share of each wording's prompts right, the rest grey."""
    pictures = {}
    for wording, share in right.items():
        chosen = [prompt for prompt in prompts if prompt.category == wording]
        for i, prompt in enumerate(chosen):
            drawn = render_scene(prompt.scene)
            pictures[prompt.text, prompt.seed] = drawn if i < share * len(chosen) else np.full_like(drawn, 64)
    return evaluate(TruthfulPipeline(pictures), prompts, batch_size=7)


def test_evaluate_and_gap_recovered() -> None:
    prompts = held_out_prompts(20)
    base = _drawn(prompts, {"template": 1.0, "natural": 0.2, "unseen_wording": 0.0})
    adapter = _drawn(prompts, {"template": 1.0, "natural": 0.8, "unseen_wording": 0.5})
    assert base.table()["natural"] == dict.fromkeys(FACTS, 0.2)
    recovered = gap_recovered(base, adapter, "binding", "natural")
    assert recovered["value"] == pytest.approx(0.6 / 0.8)
    low, high = recovered["interval"]
    assert low < 0.75 < high < 1
    assert gap_recovered(base, adapter, "relation", "unseen_wording")["value"] == pytest.approx(0.5)


def test_gap_recovered_without_a_gap_is_not_a_number() -> None:
    prompts = held_out_prompts(5)
    same = _drawn(prompts, {"template": 1.0, "natural": 1.0, "unseen_wording": 1.0})
    assert np.isnan(gap_recovered(same, same, "binding", "natural")["value"])
