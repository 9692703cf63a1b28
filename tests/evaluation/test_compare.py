"""Differences are paired, intervals are over prompts, and a negative result is said to be one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torchmetrics.image.fid import FrechetInceptionDistance

from llmdiff.evaluation import Evaluation, Prompt, compare, compare_with_references
from llmdiff.evaluation.compare import verdict
from llmdiff.evaluation.distances import cmmd, frechet, unit_weights
from llmdiff.evaluation.embed import load_embedder
from llmdiff.evaluation.report import build_report, extremes, figures, number
from llmdiff.evaluation.scores_table import read_scores, write_scores
from tests.evaluation import metric_models

SEEDS = 2
PROMPTS = [Prompt(f"p{i}", seed, i, "ab"[i % 2]) for i in range(40) for seed in range(SEEDS)]


def scored(values: np.ndarray) -> Evaluation:
    return Evaluation(PROMPTS, [], {"siglip": values})


def test_differences_are_paired_by_prompt_and_averaged_over_seeds() -> None:
    rng = np.random.default_rng(0)
    base = rng.normal(10, 5, len(PROMPTS))
    better = base + rng.normal(0.5, 0.2, len(PROMPTS))
    found = compare({"adapter": scored(better), "base": scored(base)}, ["siglip"])
    entry = found["differences"]["siglip"]["base"]
    assert entry["n"] == 40
    assert entry["mean"] == pytest.approx((better - base).mean())
    assert entry["verdict"] == "better"
    low, high = entry["interval"]
    assert 0.3 < low < entry["mean"] < high < 0.7
    own = found["scores"]["siglip"]["base"]["interval"]
    assert own[1] - own[0] > 5 * (high - low), "a paired difference is sharper than the two means"
    halves = entry["by_category"]
    assert (halves["a"]["n"], halves["b"]["n"]) == (20, 20)
    assert (halves["a"]["mean"] + halves["b"]["mean"]) / 2 == pytest.approx(entry["mean"])


def test_seeds_of_a_prompt_are_not_counted_as_evidence_of_their_own() -> None:
    rng = np.random.default_rng(1)
    by_prompt = np.repeat(rng.normal(0, 1, 40), SEEDS)
    entry = compare({"a": scored(by_prompt)}, ["siglip"])["scores"]["siglip"]["a"]
    width = entry["interval"][1] - entry["interval"][0]
    assert width == pytest.approx(2 * 1.96 * by_prompt[::SEEDS].std() / np.sqrt(40), rel=0.15)


def test_a_worse_adapter_is_called_worse_and_chance_is_called_chance() -> None:
    rng = np.random.default_rng(2)
    base = rng.normal(10, 1, len(PROMPTS))
    worse = compare({"adapter": scored(base - 0.4), "base": scored(base)}, ["siglip"])["differences"]["siglip"]["base"]
    assert worse["verdict"] == "worse"
    assert worse["mean"] == pytest.approx(-0.4)
    same = compare({"adapter": scored(base), "base": scored(base)}, ["siglip"])["differences"]["siglip"]["base"]
    assert same["verdict"] == "no difference shown"


def test_verdicts() -> None:
    assert verdict((0.1, 0.2), 50) == "better"
    assert verdict((0.1, 0.2), 50, less_is_better=True) == "worse"
    assert verdict((-0.2, -0.1), 50, less_is_better=True) == "better"
    assert verdict((0.0, 0.2), 50) == "no difference shown"
    assert verdict((0.1, 0.2), 9) == "too few prompts"
    assert verdict(None, 1) == "too few prompts"


def test_models_drawn_from_other_prompts_are_not_compared() -> None:
    other = Evaluation(PROMPTS[::-1], [], {"siglip": np.zeros(len(PROMPTS))})
    with pytest.raises(AssertionError, match="same prompts and seeds"):
        compare({"adapter": scored(np.zeros(len(PROMPTS))), "base": other}, ["siglip"])


def unit(count: int, seed: int, shift: float = 0.0) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(shift, 1, (count, 16))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_cmmd_is_its_definition() -> None:
    x, y = unit(1030, 0), unit(7, 1, 0.5)  # more than one block

    def mean_kernel(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.mean([np.exp(-np.square(b - row).sum(1) / 200) for row in a]))

    expected = 1000 * (mean_kernel(x, x) + mean_kernel(y, y) - 2 * mean_kernel(x, y))
    assert cmmd(x, y)[0] == pytest.approx(expected, rel=1e-9)
    assert cmmd(x, x)[0] == pytest.approx(0, abs=1e-9)
    twice = np.array([2, 0, *[1] * 5]) / 7
    assert cmmd(y, x, twice[None])[0] == pytest.approx(cmmd(np.concatenate([y[:1], y[:1], y[2:]]), x)[0], rel=1e-9)


def test_resampled_weights_keep_a_prompts_pictures_together() -> None:
    weights = unit_weights([3, 3, 5, 5, 9, 9])
    np.testing.assert_allclose(weights.sum(1), 1)
    np.testing.assert_array_equal(weights[:, ::2], weights[:, 1::2])
    np.testing.assert_allclose(weights.mean(0), 1 / 6, atol=0.01)


class Flat(torch.nn.Module):
    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return pictures.flatten(1).double()


def test_frechet_is_torchmetrics_and_the_definition() -> None:
    rng = np.random.default_rng(3)
    real, drawn = (rng.integers(256, size=(60, 3, 2, 2), dtype=np.uint8) for _ in range(2))
    theirs = FrechetInceptionDistance(feature=Flat(), input_img_size=(3, 2, 2)).set_dtype(torch.float64)
    theirs.update(torch.from_numpy(real), real=True)
    theirs.update(torch.from_numpy(drawn), real=False)
    x, y = (pictures.reshape(60, -1).astype(np.float64) for pictures in (drawn, real))
    assert frechet(x, y) == pytest.approx(float(theirs.compute()), rel=1e-9)
    root = sqrtm(np.cov(x.T) @ np.cov(y.T)).real
    expected = np.square(x.mean(0) - y.mean(0)).sum() + np.trace(np.cov(x.T) + np.cov(y.T) - 2 * root)
    assert frechet(x, y) == pytest.approx(expected, rel=1e-6)
    with pytest.raises(ValueError, match="expected at least 2 reference pictures, found 1"):
        frechet(x, y[:1])


def test_the_model_nearer_to_the_references_is_the_better_one(tmp_path: Path) -> None:
    model = metric_models.vision(tmp_path / "vision")
    images = metric_models.pictures(36)
    for i, image in enumerate(images):
        darker = image.point(lambda value: value // 8)
        for name, picture in (("references", image), ("near", image.rotate(180)), ("far", darker)):
            (tmp_path / name).mkdir(exist_ok=True)
            picture.save(tmp_path / name / f"{i:02}.png")
    prompts = [Prompt(f"p{i}", 0, i) for i in range(36)]
    evaluations = {name: Evaluation(prompts, sorted((tmp_path / name).iterdir()), {}) for name in ("far", "near")}
    done: list[int] = []
    found = compare_with_references(evaluations, f"cmmd={model}", tmp_path / "references", done.append)
    assert sum(done) == 3 * 36
    assert found["references"] == found["pictures"] == 36
    assert found["values"]["near"]["value"] < found["values"]["far"]["value"]
    assert found["differences"]["near"]["verdict"] == "worse"
    low, high = found["values"]["far"]["interval"]
    assert low < found["values"]["far"]["value"] < high
    fid = compare_with_references(evaluations, f"fid={model}", tmp_path / "references")
    features = load_embedder(str(model), False).features(images).numpy()
    near = load_embedder(str(model), False).features([image.rotate(180) for image in images]).numpy()
    assert fid["values"]["near"]["value"] == pytest.approx(frechet(near, features), rel=1e-3)
    with pytest.raises(ValueError, match="fid: expected fid=<vision model>, found no model"):
        compare_with_references(evaluations, "fid", tmp_path / "references")
    with pytest.raises(FileNotFoundError, match="gone: no such folder of reference pictures"):
        compare_with_references(evaluations, f"cmmd={model}", tmp_path / "gone")
    (tmp_path / "references" / "broken.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"broken\.png: expected a picture"):
        compare_with_references(evaluations, f"cmmd={model}", tmp_path / "references")


def test_the_report_says_what_got_worse_and_names_the_prompts() -> None:
    base = np.arange(len(PROMPTS), dtype=float)
    change = np.where(np.arange(len(PROMPTS)) < 6, 3.0, -1.0)  # three prompts gain, the others lose
    scores = {"siglip": base, "siglip_probability": base / 100, "siglip_cut": np.arange(len(PROMPTS)) < 4}
    evaluations = {
        "adapter": Evaluation(PROMPTS, [], {**scores, "siglip": base + change}),
        "base": Evaluation(PROMPTS, [], scores),
    }
    models = {name: {"kind": name} for name in evaluations}
    found = build_report(evaluations, {}, {"models": models, "metrics": ["siglip=x"]})
    assert found["columns"] == ["siglip", "siglip_probability"]
    assert found["summary"] == ["adapter against base, 1 score: better on 0, worse on 1 (siglip)."]
    assert found["sentences"][0].endswith("over 40 prompts: worse.")
    assert found["cut"] == {"siglip": 2}
    assert "siglip" not in found["not_run"]
    assert {"clip", "cmmd", "fid"} <= set(found["not_run"])
    helped, hurt = extremes(evaluations, "siglip", "base", 5)
    assert [each["text"] for each in helped] == ["p0", "p1", "p2"]
    assert {each["difference"] for each in hurt} == {-1.0}
    assert len(hurt) == 5
    flat = figures(found)
    assert flat["siglip.adapter-base"] == pytest.approx(change.mean())
    assert flat["siglip.adapter-base.low"] < flat["siglip.adapter-base"] < flat["siglip.adapter-base.high"] < 0


def test_a_table_of_scores_comes_back_as_it_was(tmp_path: Path) -> None:
    pictures = [tmp_path / f"{i}.png" for i in range(len(PROMPTS))]
    written = {
        name: Evaluation(PROMPTS, pictures, {"clip": np.arange(80.0) + i, "clip_cut": np.arange(80) > 50})
        for i, name in enumerate(("z", "a"))
    }
    found = read_scores(write_scores(tmp_path / "new" / "scores.parquet", written))
    assert list(found) == ["z", "a"]
    for name, each in found.items():
        assert each.prompts == PROMPTS
        assert each.pictures == pictures
        np.testing.assert_array_equal(each.scores["clip"], written[name].scores["clip"])
        np.testing.assert_array_equal(each.scores["clip_cut"], written[name].scores["clip_cut"])


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.0, "0.00"),
        (6.5512, "6.55"),
        (123.4, "123"),
        (12345.6, "12346"),
        (-0.01234, "-0.0123"),
        (np.nan, "not a number"),
    ],
)
def test_numbers_in_words(value: float, expected: str) -> None:
    assert number(value) == expected
