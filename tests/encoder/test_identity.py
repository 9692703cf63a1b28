"""What an encoder says of itself, and the table of words that is kept under it."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import torch

from llmdiff.encoder import Encoder, EncoderConfig
from llmdiff.encoder.description import describe_settings
from tests.encoder.tiny_encoder import CAPTIONS, make
from tests.encoder.tiny_models import build, tokenizer


def test_the_isolated_table_is_kept_on_disk(tmp_path) -> None:
    model = build("llama")
    config = EncoderConfig(word_path="isolated", dtype="float32")
    first = Encoder(model, tokenizer(), config, cache_folder=tmp_path)(CAPTIONS)
    tables = list(tmp_path.rglob("*.safetensors"))
    assert len(tables) == 1
    written = tables[0].stat().st_mtime_ns
    second = Encoder(model, tokenizer(), config, cache_folder=tmp_path)
    rows: list[int] = []
    model.model.register_forward_hook(lambda module, args, output: rows.append(output[0].shape[1]))
    assert all(torch.equal(one, other) for one, other in zip(second(CAPTIONS), first, strict=True))
    assert rows == [11], "one forward pass: the captions'"
    assert tables[0].stat().st_mtime_ns == written
    Encoder(model, tokenizer(), EncoderConfig(word_path="isolated", dtype="float32", g=2.0), cache_folder=tmp_path)(
        ["a"]
    )
    assert len(list(tmp_path.rglob("*.safetensors"))) == 2
    assert not list(tmp_path.rglob("*.tmp"))
    tables[0].write_bytes(tables[0].read_bytes()[:-8])
    third = Encoder(model, tokenizer(), config, cache_folder=tmp_path)
    assert all(torch.equal(one, other) for one, other in zip(third(CAPTIONS), first, strict=True))


def test_the_description_says_all_that_matters_and_nothing_else(tmp_path) -> None:
    base = make().describe()
    assert json.loads(json.dumps(base)) == base
    assert make(token_budget=7).describe() == base
    assert make(seed=5).describe() == base, "no noise, no seed"
    assert "noise_std" not in base, "the fingerprints of encodings without such noise stay what they were"
    fresh = make(noise="fresh", h=[0.5, 0.5, 2.0], bands=2).describe()
    assert fresh["noise_std"] == [2.0**0.5, 2.0]
    changes: list[dict[str, Any]] = [
        {"reading": "last"},
        {"word_path": "isolated"},
        {"g": 2.0},
        {"bands": 2},
        {"initial": "zeros"},
        {"initial": "noise"},
        {"initial": "noise", "seed": 1},
        {"noise": "fresh"},
        {"noise": "fresh", "h": 0.3},
        {"noise": "cached", "h": 0.1},
        {"noise": "cached", "h": 0.1, "seed": 2},
        {"max_tokens": 77},
        {"append_eos": False},
        {"template": "a picture of {caption}"},
        {"template_keep": "caption"},
        {"dtype": "float64"},
    ]
    tried = {name for change in changes for name in change} | {"token_budget", "quantization"}
    assert tried == {field.name for field in dataclasses.fields(EncoderConfig)}, "a field is forgotten here"
    plain, packed = (describe_settings(EncoderConfig(quantization=each), [1.0], [0.0], []) for each in ("none", "8bit"))
    assert plain != packed
    descriptions = [base, *(make(**change).describe() for change in changes), make("phi").describe()]
    assert len({json.dumps(description, sort_keys=True) for description in descriptions}) == len(descriptions)


def test_a_changed_weight_or_token_changes_the_description() -> None:
    base = make().describe()
    model, words = build("llama"), tokenizer()
    with torch.no_grad():
        model.model.layers[2].mlp.down_proj.weight[3, 4] += 1e-3
    assert Encoder(model, tokenizer(), EncoderConfig(dtype="float32")).describe()["llm"] != base["llm"]
    words.add_tokens(["purple"])
    changed = Encoder(build("llama"), words, EncoderConfig(dtype="float32")).describe()
    assert changed["llm"] == base["llm"]
    assert changed["tokenizer"] != base["tokenizer"]


def test_the_head_and_training_state_do_not_matter() -> None:
    model = build("llama")
    with torch.no_grad():
        model.lm_head.weight.zero_()
    assert Encoder(model.train(), tokenizer(), EncoderConfig(dtype="float32")).describe() == make().describe()
