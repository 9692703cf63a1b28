"""Norms, ranks, cosines and overlaps, against cases that are known by hand and tensors computed in full."""

from __future__ import annotations

import math

import pytest
import torch

from llmdiff.encoder import Encoder, EncoderConfig
from llmdiff.encoder.inspect import Inspection, inspect
from llmdiff.studies.geometry import effective_rank, geometry, mean_cosine, overlap, overlap_of, r_squared, tokens_of
from tests.encoder import tiny_models

CAPTIONS = ["a red circle next to a small blue square", "the green triangle above a circle"]


def encoder(**settings: object) -> Encoder:
    config = EncoderConfig(**{"dtype": "float32", **settings})
    return Encoder(tiny_models.build("llama"), tiny_models.tokenizer(), config)


def test_effective_rank_counts_directions() -> None:
    line = torch.outer(torch.linspace(-1, 1, 9), torch.ones(4))
    assert effective_rank(line) == pytest.approx(1.0)
    assert effective_rank(torch.cat([torch.eye(3), -torch.eye(3)])) == pytest.approx(3.0)
    assert effective_rank(torch.ones(5, 4)) == 1.0
    assert effective_rank(line + 7.0) == pytest.approx(1.0)


def test_effective_rank_is_the_entropy_of_unequal_directions() -> None:
    rows = torch.diag(torch.tensor([3.0, 1.0]))
    shares = torch.tensor([0.75, 0.25])
    expected = math.exp(-(shares * shares.log()).sum())
    assert effective_rank(torch.cat([rows, -rows])) == pytest.approx(expected, rel=1e-6)


def test_cosine_and_explained_variance() -> None:
    rows = torch.tensor([[1.0, 0.0], [0.0, 2.0], [0.0, 0.0]])
    turned = torch.tensor([[0.0, 1.0], [0.0, 5.0], [0.0, 0.0]])
    assert mean_cosine(rows, rows) == 1.0
    assert mean_cosine(rows, turned) == pytest.approx(2 / 3)
    assert r_squared(rows, rows) == 1.0
    assert r_squared(rows.mean(0).expand_as(rows), rows) == pytest.approx(0.0)
    assert r_squared(-rows, rows) < 0


def test_bands_are_added_and_fresh_noise_has_its_size() -> None:
    banded = torch.ones(2, 4000, 3)
    assert torch.equal(tokens_of([banded], (0.0, 0.0), 0), torch.full((4000, 3), 2.0, dtype=torch.float64))
    noisy = tokens_of([banded], (0.3, 0.4), 0) - 2
    assert float(noisy.std()) == pytest.approx(0.5, rel=0.03)


def test_seeds_agree_without_noise_and_differ_with_it() -> None:
    plain = geometry(encoder(), CAPTIONS, encoder(seed=1))
    assert plain["seed_cosine"] == pytest.approx(1.0)
    assert plain["nonfinite"] == 0
    noisy = {"noise": "cached", "h": 0.5}
    drawn = geometry(encoder(**noisy), CAPTIONS, encoder(**noisy, seed=1))
    assert drawn["seed_cosine"] < 0.9
    assert drawn["norm"] > plain["norm"]
    fresh = {"noise": "fresh", "h": 0.5}
    assert geometry(encoder(**fresh), CAPTIONS, encoder(**fresh, seed=1))["seed_cosine"] < 0.9


def test_an_encoding_that_is_not_finite_is_counted() -> None:
    broken = encoder()
    broken.llm.model.get_input_embeddings().weight.data[broken.tokenizer("triangle")["input_ids"][0]] = math.inf
    assert geometry(broken, CAPTIONS, broken)["nonfinite"] == 0.5
    alone = geometry(broken, CAPTIONS[1:], broken)
    assert alone["nonfinite"] == 1
    assert math.isnan(alone["rank"])


def test_overlap_is_the_cosine_of_both_scores() -> None:
    one = encoder()
    found = inspect(one, CAPTIONS[0])
    cosine, share = overlap_of(found)
    sentence, word = scores(one, CAPTIONS[0])
    expected = torch.nn.functional.cosine_similarity(sentence, word, dim=-1)[:, 1:].flatten()
    torch.testing.assert_close(cosine.float(), expected, rtol=1e-3, atol=1e-3)
    assert overlap(one, CAPTIONS[:1])["overlap"] == pytest.approx(float(expected.mean()), abs=1e-3)
    assert len(share) == len(cosine)


def test_a_word_that_says_it_all_is_degenerate() -> None:
    norms = torch.ones(1, 3)
    found = Inspection(
        caption="",
        tokens=["a", "b", "c"],
        norms={"sentence": norms, "word": norms, "context": torch.tensor([[0.0, 0.05, 1.0]])},
        outliers=[],
        kept=range(3),
        encoding=norms,
    )
    cosine, share = overlap_of(found)
    assert share.tolist() == pytest.approx([0.05, 1.0])
    assert cosine.tolist() == pytest.approx([1 - 0.05**2 / 2, 0.5])


def scores(one: Encoder, caption: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Sentence and word scores ``(block, token, hidden)`` in two passes of transformers' own."""
    from llmdiff.encoder.llm.scores import run_alone

    ids = torch.tensor([[*one.tokenizer(caption)["input_ids"], one.tokenizer.eos_token_id]])
    sentence, word = [], []

    def see(layer: torch.nn.Module, args: tuple[torch.Tensor, ...], kwargs: dict[str, object], output: object) -> None:
        x = args[0] if args else kwargs["hidden_states"]
        after = output[0] if isinstance(output, tuple) else output
        sentence.append((after - x)[0])
        word.append((run_alone(layer, x, args, kwargs) - x)[0])

    handles = [layer.register_forward_hook(see, with_kwargs=True) for layer in one.llm.layers]
    with torch.no_grad():
        one.llm.forward(ids)
    for handle in handles:
        handle.remove()
    return torch.stack(sentence), torch.stack(word)
