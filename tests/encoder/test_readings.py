"""What is read of an LLM, against brute force; what a reading costs, refuses and leaves in a fingerprint."""

from __future__ import annotations

import json
import warnings
from typing import Any, NamedTuple

import pytest
import torch
import transformers
from torch import Tensor

from llmdiff.encoder import Encoder, EncoderConfig, NonFinite
from llmdiff.encoder.description import describe_settings
from llmdiff.encoder.inspect import draw_heat_map, inspect
from llmdiff.encoder.llm.decoder_llm import find_layers
from llmdiff.encoder.readings import Reading
from llmdiff.encoder.schedules import resolve_schedule
from llmdiff.encoder.sums.langevin import noise_std
from storage.hashing import canonical_json, content_hash
from tests.encoder import brute_force
from tests.encoder.tiny_encoder import flops
from tests.encoder.tiny_models import FAMILIES, build, llama, scramble, tokenizer
from tests.examples import some
from tests.kernels.allocations import Allocations

CAPTIONS = ["a red circle next to the blue square", "a", "", "the small green triangle is above a large red square"]
HIDDEN = ["last", "layer:0", "layer:1", "layer:-1", "layer:-2", "layers:3,0,-2", "mean", "norm_mean"]
CASES: list[dict[str, Any]] = [
    {},
    {"reading": "score_norm"},
    {"reading": "score_norm", "g": "linear", "bands": 2},
    *({"reading": name} for name in HIDDEN),
    {"reading": "mean", "bands": 2},
    {"reading": "norm_mean", "bands": 3},
]
COMPUTED = [*CASES[:3], *CASES[-4:]]
"""Readings that are no hidden state as it is."""
TOLERANCE = {"float64": 1e-6, "float32": 2e-5}  # Gemma's norms stay in float32


def relative(one: Tensor, other: Tensor) -> float:
    return float((one.double() - other.double()).norm() / other.double().norm())


class Truth(NamedTuple):
    """A caption's embedding, its blocks' scores and its states, by brute force."""

    x: Tensor
    score: Tensor
    states: Tensor

    @classmethod
    def of(cls, model: Any, words: Any, caption: str) -> Truth:
        ids = [*words(caption)["input_ids"], words.eos_token_id]
        x, sentence, word = brute_force.scores(model, ids, "block")
        return cls(x, sentence - word, brute_force.states(model, ids))

    def read(self, encoder: Encoder) -> Tensor:
        g, config = torch.tensor(encoder.g, dtype=torch.float64), encoder.config
        return brute_force.reading(config.reading, *self, g, config.bands)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_reading_matches_brute_force(name: str) -> None:
    for dtype, tolerance in TOLERANCE.items():
        model = build(name, getattr(torch, dtype))
        exact_model, words = brute_force.in_float64(model), tokenizer()
        truths = [Truth.of(exact_model, words, caption) for caption in CAPTIONS]
        for settings in some(CASES) if dtype == "float64" else COMPUTED:
            encoder = Encoder(model, words, EncoderConfig(token_budget=30, **settings))
            for encoding, truth in zip(encoder(CAPTIONS), truths, strict=True):
                exact = truth.read(encoder)
                assert encoding.shape == exact.shape
                assert encoding.dtype == (torch.float64 if dtype == "float64" else torch.float32)
                assert relative(encoding, exact) < tolerance, (settings, dtype)


def test_no_score_is_no_score_when_it_is_normalised() -> None:
    """The first token's score is zero, and so is that of a token that sees nothing but itself over and over."""
    encoder = Encoder(build("llama", torch.float64), tokenizer(), EncoderConfig(reading="score_norm", initial="zeros"))
    encoding, alone = encoder(["red red red", ""])
    assert not encoding[0].any()
    assert not alone.any()
    assert encoding.isfinite().all()
    zeros = build("llama")
    with torch.no_grad():
        zeros.get_decoder().layers[1].self_attn.o_proj.weight.zero_()
        zeros.get_decoder().layers[1].mlp.down_proj.weight.zero_()
    config = EncoderConfig(reading="score_norm", initial="zeros", bands=3)
    assert not Encoder(zeros, tokenizer(), config)(CAPTIONS[:1])[0][1].any()


@pytest.mark.parametrize("reading", HIDDEN)
def test_hidden_states_cost_a_plain_pass(reading: str) -> None:
    encoder = Encoder(build("llama"), tokenizer(), EncoderConfig(reading=reading))
    ids = torch.tensor([[*encoder.tokenizer(CAPTIONS[0])["input_ids"], 1]])
    assert flops(lambda: encoder(CAPTIONS[:1])) == flops(lambda: encoder.llm.forward(ids)) > 0
    hooked = [module for module in encoder.llm.model.modules() if module._forward_hooks or module._forward_pre_hooks]
    assert not hooked


@pytest.mark.parametrize("reading", ["mean", "norm_mean", "score_norm", "last"])
def test_memory_does_not_grow_with_the_blocks(reading: str) -> None:
    peaks = []
    for blocks in (3, 12):
        model = llama(num_hidden_layers=blocks).eval()
        encoder = Encoder(model, tokenizer(), EncoderConfig(reading=reading))
        encoder([""])
        with Allocations([*model.parameters(), *model.buffers()]) as allocations:
            encoder(CAPTIONS)
        peaks.append(allocations.peak)
    assert peaks[0] == peaks[1] > 0


@pytest.mark.parametrize("kind", ["gpt2", "mamba"])
def test_hidden_states_are_read_of_any_decoder_without_a_warning(kind: str) -> None:
    torch.manual_seed(0)
    if kind == "gpt2":
        settings = {"vocab_size": 64, "n_embd": 48, "n_layer": 3, "n_head": 4, "bos_token_id": None, "eos_token_id": 1}
        model: Any = transformers.GPT2LMHeadModel(transformers.GPT2Config(**settings))
    else:
        small = {"vocab_size": 64, "hidden_size": 48, "num_hidden_layers": 3, "state_size": 8}
        model = transformers.MambaForCausalLM(transformers.MambaConfig(**small))
    model = scramble(model).eval()
    ids = torch.tensor([[*tokenizer()(CAPTIONS[0])["input_ids"], 1]])
    embedding, first, end = [], [], []
    first_block = find_layers(model.base_model)[0]
    handles = [
        first_block.register_forward_pre_hook(lambda module, args, kwargs: embedding.append(args[0]), with_kwargs=True),
        first_block.register_forward_hook(lambda module, args, output: first.append(output)),
    ]
    with torch.no_grad():
        end.append(model.base_model(ids)[0])
    for handle in handles:
        handle.remove()
    for reading, state in [("last", end[0]), ("layer:1", first[0]), ("layer:0", embedding[0])]:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            encoder = Encoder(model, tokenizer(), EncoderConfig(reading=reading))
        torch.testing.assert_close(encoder(CAPTIONS[:1])[0], state[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("reading", ["last", "mean", "layer:3"])
def test_hidden_states_that_are_not_finite_are_named(reading: str) -> None:
    model = build("llama")
    with torch.no_grad():
        model.get_decoder().layers[1].mlp.down_proj.weight[5] = torch.inf
    error = Encoder(model, tokenizer(), EncoderConfig(reading=reading)).encode(["a red circle"])[0]
    assert isinstance(error, NonFinite)
    assert (error.block, error.token, error.channel) == (1, 0, 5)
    fine = Encoder(model, tokenizer(), EncoderConfig(reading="layer:1")).encode(["a red circle"])[0]
    assert not isinstance(fine, NonFinite), "what comes after the layer that is read does not matter"


def test_an_overflow_of_the_final_norm_is_the_last_blocks() -> None:
    model = build("llama")
    with torch.no_grad():
        model.get_decoder().norm.weight[7] = torch.inf
    error = Encoder(model, tokenizer(), EncoderConfig(reading="last")).encode(["a red circle"])[0]
    assert isinstance(error, NonFinite)
    assert (error.block, error.token, error.channel) == (2, 0, 7)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"reading": "first"}, "reading must be score, score_norm, last, layer:K, .*; got 'first'"),
        ({"reading": "layer:"}, "reading must be"),
        ({"reading": "layer:1,2"}, "reading must be"),
        ({"reading": "layers:1, 2"}, "reading must be"),
        ({"reading": 3}, "reading must be .*; got 3"),
        ({"reading": "last", "bands": 2}, "bands is 2 with reading='last'; expected 1"),
        ({"reading": "layer:3", "bands": 3}, "bands is 3 with reading='layer:3'; expected 1"),
        ({"reading": "layers:1,2,3", "bands": 2}, "bands is 2 .*; expected one a layer, that is 3"),
        ({"reading": "mean", "g": 2.0}, "g is 2.0 with reading='mean'; expected 1.0, for hidden states have no such"),
        ({"reading": "last", "word_path": "isolated"}, "word_path is 'isolated' with reading='last'"),
        ({"reading": "last", "initial": "zeros"}, "initial is 'zeros' with reading='last'"),
        ({"reading": "last", "noise": "fresh", "h": 0.1}, "h is 0.1 with reading='last'"),
        ({"reading": "last", "noise": "fresh"}, "noise is 'fresh' with reading='last'"),
        ({"reading": "score_norm", "word_path": "isolated"}, "expected 'block': the table of the isolated path"),
        ({"template_keep": "none"}, "template_keep must be one of all, caption, after; got 'none'"),
        ({"template_keep": "after", "append_eos": False}, "expected text after {caption} in the template"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EncoderConfig(**settings)


def test_layers_that_the_llm_lacks_are_refused() -> None:
    for reading in ("layer:4", "layer:-5", "layers:1,2,4"):
        with pytest.raises(ValueError, match=f"reading is {reading}; expected layers from 0 to 3"):
            Encoder(build("llama"), tokenizer(), EncoderConfig(reading=reading))
    with pytest.raises(ValueError, match="reading is layers:3,-1; expected each layer once"):
        Encoder(build("llama"), tokenizer(), EncoderConfig(reading="layers:3,-1"))
    with pytest.raises(ValueError, match="bands is 4; expected at most 3"):
        Encoder(build("llama"), tokenizer(), EncoderConfig(reading="mean", bands=4))
    whole = Encoder(build("llama"), tokenizer(), EncoderConfig(reading="layers:0,1,2,3"))
    assert whole(["a"])[0].shape == (4, 2, 48), "the embedding is a layer too"


def test_there_and_back() -> None:
    config = EncoderConfig(reading="layers:10,20,-1")
    assert config.bands == 3
    assert EncoderConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert [str(Reading.parse(name)) for name in (*HIDDEN, "score", "score_norm")] == [*HIDDEN, "score", "score_norm"]
    assert str(Reading.parse("layers:3,0,-2").of(3)) == "layers:3,0,2"


@pytest.mark.parametrize(
    ("settings", "fingerprint"),
    [
        ({}, "da78f0060e7bbd8cc184a88f964ff5c9"),
        (
            {"word_path": "isolated", "g": "linear", "bands": 2, "dtype": "float32"},
            "f06f6cc05d08517bb5b26b288ca39d19",
        ),
        ({"noise": "fresh", "h": 0.25, "initial": "zeros"}, "9dfe35009e66d3aadc601146115bf5ef"),
        (
            {
                "noise": "cached",
                "h": 0.1,
                "seed": 7,
                "template": "a picture of {caption} : what",
                "append_eos": False,
                "max_tokens": 77,
            },
            "178913100ddcdb701f7ab3beffcc0ca3",
        ),
    ],
)
def test_fingerprints_of_before_stay_what_they_were(settings: dict[str, Any], fingerprint: str) -> None:
    """The literals were taken before there was a choice of readings and of tokens."""
    config = EncoderConfig(**{"dtype": "bfloat16", **settings})
    g, h = (resolve_schedule(value, 3) for value in (config.g, config.h))
    left = noise_std(h if config.noise == "fresh" else (), 3, config.bands)
    described = describe_settings(config, g, h, left)
    assert content_hash(canonical_json(described).encode()) == fingerprint
    neutral = EncoderConfig(**{"dtype": "bfloat16", "reading": "score", "template_keep": "all", **settings})
    assert describe_settings(neutral, g, h, left) == described


def test_the_description_tells_readings_apart_and_leaves_out_what_they_do_not_heed() -> None:
    def describe(**settings: Any) -> dict[str, Any]:
        return Encoder(build("llama"), tokenizer(), EncoderConfig(**settings)).describe()

    settings = [*CASES, {"template_keep": "caption"}, {"template_keep": "after"}]
    same = [{"reading": "layer:3"}, {"reading": "layer:2"}]  # as layer:-1 and layer:-2
    found = [json.dumps(describe(**each), sort_keys=True) for each in settings]
    assert len(set(found)) == len(found)
    assert {json.dumps(describe(**each), sort_keys=True) for each in same} < set(found)
    last = describe(reading="last", seed=3)
    assert [last[name] for name in ("word_path", "g", "h", "initial", "noise", "seed")] == [None] * 6
    assert describe(reading="layers:-1,0")["reading"] == "layers:3,0"
    assert describe(reading="layers:-1,0")["bands"] == 2
    assert describe(reading="layers:2") == describe(reading="layer:2")


def test_states_are_inspected_by_block() -> None:
    encoder = Encoder(build("llama"), tokenizer(), EncoderConfig(reading="layer:-2"))
    found = inspect(encoder, "a red circle")
    ids = [*tokenizer()("a red circle")["input_ids"], 1]
    states = brute_force.states(encoder.llm.model, ids)
    assert list(found.norms) == ["state"]
    torch.testing.assert_close(found.norms["state"].double(), states[1:-1].norm(dim=-1), rtol=1e-4, atol=1e-4)
    lines = found.table().splitlines()
    assert lines[0].split() == ["block", "token", "state"]
    assert len(lines) == 1 + 3 * 4 + 1 + 3 + 1 + 4
    assert draw_heat_map(found).size[0] > 0
