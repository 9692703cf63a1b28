"""The probe on embedded models: it finds what is there, finds it again, and misses what is not."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from llmdiff.adapter.padding import pad
from llmdiff.diffusion.text import BaseTextEncoder
from llmdiff.encoder import Encoder, EncoderConfig
from llmdiff.probe.captions import CHOICES, ProbeCaptions, answers
from llmdiff.probe.fit import Figures, Padded, ProbeConfig, read
from llmdiff.probe.model import Probe
from llmdiff.probe.probing import (
    ProbeResult,
    Probing,
    as_good,
    default_readings,
    encode_by,
    encode_by_readings,
    recommend,
    run_probes,
)
from llmdiff.shapes import DIFFUSION, LLAMA
from llmdiff.shapes.captions import PROMPT, canonical
from llmdiff.shapes.scene import Scene, Thing
from tests.examples import some

SMALL = ProbeConfig(captions=160, tests=32, steps=60)
TINY = ProbeConfig(captions=40, tests=8, steps=3)


def llama(template: str = PROMPT) -> Encoder:
    return Encoder.from_pretrained(LLAMA, EncoderConfig(template=template), dtype="float32")


def test_captions_are_of_pairs_that_are_held_out_or_not_and_the_same_again() -> None:
    drawn = ProbeCaptions.draw(20, 10, seed=3)
    assert drawn.all == ProbeCaptions.draw(20, 10, seed=3).all != ProbeCaptions.draw(20, 10, seed=4).all
    assert len(drawn.all) == 40
    assert drawn.train.answers.shape == (20, len(CHOICES))
    assert drawn.train.answers.dtype == torch.int64
    assert drawn.natural.captions[0] != drawn.new.captions[0]
    for caption, right in zip(drawn.train.captions, drawn.train.answers.tolist(), strict=True):
        assert all(choices[i] in caption for choices, i in list(zip(CHOICES, right, strict=True))[:6])


def test_answers_are_in_one_order_whichever_thing_a_caption_begins_with() -> None:
    red, blue = Thing("red", "circle", "small"), Thing("blue", "cross", "large")
    one, other = Scene((red, blue), ("right of",)), Scene((blue, red), ("left of",))
    assert canonical(one) == other
    assert answers(one) == answers(other) == [2, 3, 1, 0, 0, 0, 0]
    assert answers(Scene((red, blue), ("above",)))[-1] == 1


def test_an_llm_that_is_asked_beats_its_own_embeddings_and_clip() -> None:
    captions = ProbeCaptions.draw(SMALL.captions, SMALL.tests, SMALL.seed)
    encodings = encode_by_readings(llama(), ["layer:2", "layer:0"], captions.all)
    encodings["base"] = encode_by(BaseTextEncoder.from_pretrained(str(DIFFUSION)), captions.all)
    assert {one.dtype for of in encodings.values() for one in of} == {torch.bfloat16}
    found = run_probes(encodings, captions, 0, SMALL)
    assert found["layer:2"].mean > 0.8
    assert found["layer:0"].mean < 0.4
    assert found["base"].mean < 0.4


@pytest.mark.parametrize("refiner", some([0, 2]))
def test_a_seed_gives_the_same_figures_however_many_run_at_once(refiner: int) -> None:
    captions = ProbeCaptions.draw(TINY.captions, TINY.tests, TINY.seed)
    encodings = encode_by_readings(llama(), ["mean", "layers:1,3"], captions.all)
    before, threads = torch.random.get_rng_state(), torch.get_num_threads()
    together = run_probes(encodings, captions, refiner, TINY)
    torch.set_num_threads(1)
    try:
        alone = {name: run_probes({name: of}, captions, refiner, TINY)[name] for name, of in encodings.items()}
    finally:
        torch.set_num_threads(threads)
    assert together == alone
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.get_num_threads() == threads


@torch.no_grad()
def test_captions_are_read_in_the_order_they_came_in() -> None:
    """Whatever order they are computed in, by their lengths."""
    torch.manual_seed(0)
    probe, padded = Probe(16, refiner=1), Padded(*pad([torch.randn(1 + 7 * i % 11, 16) for i in range(40)]))
    rows = torch.tensor([30, 2, 39, *range(20), 30])
    for found, expected in zip(
        read(probe, padded, rows), probe(padded.encodings[rows], padded.mask[rows]), strict=True
    ):
        torch.testing.assert_close(found, expected)


def test_the_best_on_top_alone_are_probed_within_reach() -> None:
    probing = Probing(TINY, reach=1)
    for template in ("{caption}", PROMPT):
        readings = ["last", "layer:0"]
        probing.add(template, encode_by_readings(llama(template), readings, probing.captions.all))
    ((kept, _),) = probing.kept.items()
    assert probing.rows[kept].on_top.mean == max(row.on_top.mean for row in probing.rows.values())
    rows = probing.finish()
    assert [(row.reading, row.template) for row in rows] == [
        *(("last", "{caption}"), ("layer:0", "{caption}"), ("last", PROMPT), ("layer:0", PROMPT))
    ]
    assert [row.in_reach is not None for row in rows] == [(row.reading, row.template) == kept for row in rows]
    assert not probing.kept


def test_a_refiner_is_recommended_where_it_brings_more_than_chance() -> None:
    def row(name: str, on_top: float, in_reach: float | None = None) -> ProbeResult:
        return ProbeResult(
            name, "{caption}", Figures(*[on_top] * 4), None if in_reach is None else Figures(*[in_reach] * 4)
        )

    best = recommend([row("a", 0.5), row("b", 0.4, 0.9)])
    assert (best.row.reading, best.refiner, best.figures.mean) == ("b", True, 0.9)
    best = recommend([row("a", 0.5, 0.7), row("b", 0.65, 0.6)])
    assert (best.row.reading, best.refiner, best.figures.mean) == ("b", False, 0.65)


def test_rows_that_captions_cannot_tell_from_the_recommended_one_are_named() -> None:
    figures = {"a": (0.5, 0.85), "b": (0.4, 0.9), "c": (0.55, None), "d": (0.3, 0.7)}
    rows = [
        ProbeResult(name, "{caption}", Figures(*[top] * 4), None if reach is None else Figures(*[reach] * 4))
        for name, (top, reach) in figures.items()
    ]
    assert [row.reading for row in as_good(rows, recommend(rows))] == ["a"]
    rows = [replace(row, in_reach=None) for row in rows]
    assert [row.reading for row in as_good(rows, recommend(rows))] == ["a"]


def test_encodings_that_are_not_finite_are_refused() -> None:
    captions = ProbeCaptions.draw(TINY.captions, TINY.tests, TINY.seed)
    encodings = [torch.full((2, 8), torch.nan), *torch.randn(len(captions.all) - 1, 2, 8)]
    with pytest.raises(ValueError, match="expected encodings of finite numbers, found NaN or infinity"):
        run_probes({"a": encodings}, captions, 0, TINY)


@pytest.mark.parametrize(
    ("blocks", "layers"), [(30, ["layer:-2", "layer:15", "layer:20"]), (5, ["layer:-2", "layer:2", "layer:3"])]
)
def test_the_default_readings_are_different_ones(blocks: int, layers: list[str]) -> None:
    assert default_readings(blocks) == ["score", "score_norm", "norm_mean", "mean", "last", *layers]
    assert len(default_readings(3)) == 7
    assert len(default_readings(1)) == 6
