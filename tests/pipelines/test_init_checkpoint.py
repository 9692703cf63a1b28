"""What is said of the adapter that a run starts from."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import save

from llmdiff.adapter.config import AdapterConfig
from llmdiff.adapter.files import write_files
from llmdiff.encoder import Encoder, EncoderConfig
from llmdiff.training.config import TrainConfig
from pipelines.runtime.init_checkpoint import check_same_encodings, check_start
from tests.encoder.test_readings import CASES
from tests.encoder.tiny_models import build, tokenizer


@pytest.mark.parametrize(("trained_on", "warns"), [("one", False), ("other", True), ("", False)])
def test_a_start_from_an_adapter_of_another_store_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, trained_on: str, warns: bool
) -> None:
    """A store made anew at the same path is another one: the weights are of use, and they know other data."""
    about = {"encoder_fingerprint": "f", "base_model": "b", "store": "s", "training": {"store_id": trained_on}}
    write_files(tmp_path, save({}), AdapterConfig(encoding_dim=8, context_dim=8, **about))
    paths = {"store": "s", "base": "b", "output": "o", "start_from": str(tmp_path)}
    with caplog.at_level(logging.WARNING):
        check_start(TrainConfig(**paths, store_id="one", fingerprint="f", steps=1))
    told = f"{tmp_path} was trained on the store other at s; this run reads the store one at s"
    assert [record.getMessage() for record in caplog.records] == [told] * warns


@pytest.mark.parametrize(
    ("described", "settings", "message"),
    [
        ({}, {"reading": "mean"}, None),
        ({}, {"reading": "score"}, None),
        ({"kind": "base"}, {}, "trained with kind 'base', found 'llm'"),
        ({"reading": "layer:28"}, {"reading": "layer:-2"}, None),
        ({"reading": "layer:28"}, {}, "trained with reading 'layer:28', found 'score'"),
        ({"reading": "layer:28"}, {"reading": "layer:10"}, "trained with reading 'layer:28', found 'layer:10'"),
        ({"reading": "layer:28"}, {"reading": "layers:28"}, None),
        (
            {"reading": "layers:1,2", "bands": 2},
            {"reading": "layers:5,6"},
            "trained with reading 'layers:1,2', found 'layers:5,6'",
        ),
        ({"reading": "layers:1,2", "bands": 2}, {"reading": "layers:-1,0"}, None),
        ({"reading": "layers:1,2", "bands": 2}, {"reading": "layers:-1,0,1"}, "trained with bands 2, found 3"),
        ({}, {"reading": "layers:-1"}, "trained with reading 'score', found 'layer:-1'"),
        ({"word_path": "block"}, {"word_path": "isolated"}, "trained with word_path 'block', found 'isolated'"),
        ({"initial": "embedding"}, {"initial": "zeros"}, "trained with initial 'embedding', found 'zeros'"),
        ({"noise": None}, {"noise": "fresh", "h": 0.1}, "trained with noise None, found 'fresh'"),
        (
            {"noise": "fresh", "h": [0.1] * 3},
            {"noise": "fresh", "h": 0.2},
            "trained with h [0.1, 0.1, 0.1], found [0.2, 0.2, 0.2]",
        ),
        ({"noise": "fresh", "h": [0.2] * 3, "noise_std": [1.0]}, {"noise": "fresh", "h": 0.2}, None),
        ({"noise": "cached", "seed": 1}, {"noise": "cached", "h": 0.1}, "trained with seed 1, found 0"),
        ({}, {"quantization": "8bit"}, "trained with quantization 'none', found '8bit'"),
        ({"quantization": "8bit"}, {}, "trained with quantization '8bit', found 'none'"),
        ({"quantization": "8bit"}, {"quantization": "8bit"}, None),
        ({}, {"g": 2.0}, "trained with g [1.0, 1.0, 1.0], found [2.0, 2.0, 2.0]"),
        ({"bands": 1}, {"g": [1.0] * 3}, None),
        ({"g": [1.0, 0.5, 0.0]}, {"g": [1.0, 0.5, 0.0]}, None),
        ({}, {"g": [1.0] * 4}, "trained with g [1.0, 1.0, 1.0], found [1.0, 1.0, 1.0, 1.0]"),
        ({"bands": 2}, {"reading": "layers:1,2"}, "trained with reading 'score', found 'layers:1,2'"),
        ({"bands": 2}, {}, "trained with bands 2, found 1"),
        ({"template": "<|user|>{caption}"}, {"template": "chat"}, None),
        ({"template": "<|user|>{caption}"}, {}, "trained with template '<|user|>{caption}', found '{caption}'"),
        ({}, {"template_keep": "after"}, "trained with template_keep 'all', found 'after'"),
        ({}, {"dtype": "float32"}, "trained with dtype 'bfloat16', found 'float32'"),
    ],
)
def test_encodings_that_a_champion_never_read_are_refused_before_they_are_made(
    tmp_path: Path, described: dict[str, Any], settings: dict[str, Any], message: str | None
) -> None:
    plain = {"kind": "llm", "bands": 1, "max_tokens": 120, "append_eos": True, "template": "{caption}"}
    scores = {} if "reading" in described else {"g": [1.0] * 3}
    known = {} if message is None and not described else {**plain, "dtype": "bfloat16", **scores, **described}
    write_files(tmp_path, save({}), AdapterConfig(encoding_dim=8, context_dim=8, encoder_description=known))
    if message is None:
        check_same_encodings(str(tmp_path), EncoderConfig(**settings))
        return
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path}: can't start from it: {message}; expected the same")):
        check_same_encodings(str(tmp_path), EncoderConfig(**settings))


def test_what_an_encoder_says_of_itself_is_what_is_expected_of_its_settings(tmp_path: Path) -> None:
    noise = {"noise": "cached", "h": [0.1, 0.0, 0.2], "seed": 7, "initial": "noise"}
    for i, settings in enumerate([*CASES, noise, {"g": "cosine:0.5", "noise": "fresh", "h": 0.25, "max_tokens": 77}]):
        config = EncoderConfig(**{"dtype": "float32", "template_keep": "caption", **settings})
        described = Encoder(build("llama"), tokenizer(), config).describe()
        about = AdapterConfig(encoding_dim=8, context_dim=8, encoder_description=described)
        write_files(tmp_path / str(i), save({}), about)
        check_same_encodings(str(tmp_path / str(i)), config)
