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
from llmdiff.encoder import EncoderConfig
from llmdiff.training.config import TrainConfig
from pipelines.runtime.init_checkpoint import check_same_encodings, check_start


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
        ({"reading": "layer:28"}, {}, "trained with reading 'layers', found 'score'"),
        ({"bands": 2}, {"reading": "layers:1,2"}, "trained with reading 'score', found 'layers'"),
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
    known = {} if message is None and not described else {**plain, "dtype": "bfloat16", **described}
    write_files(tmp_path, save({}), AdapterConfig(encoding_dim=8, context_dim=8, encoder_description=known))
    if message is None:
        check_same_encodings(str(tmp_path), EncoderConfig(**settings))
        return
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path}: can't start from it: {message}; expected the same")):
        check_same_encodings(str(tmp_path), EncoderConfig(**settings))
