"""What does not go with an LLM or its tokenizer is refused before weights are read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import transformers
from safetensors.torch import save_file

from llmdiff.encoder import Encoder, EncoderConfig
from tests.encoder.tiny_models import SMALL, tokenizer


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"reading": "layer:9"}, "reading is layer:9; expected layers from 0 to 3"),
        ({"reading": "mean", "bands": 4}, "bands is 4; expected at most 3, the LLM's blocks"),
        ({"g": (1.0, 2.0)}, "g: a schedule of 2 numbers for an LLM of 3 blocks; expected 3"),
        ({"h": (1.0, 2.0), "noise": "fresh"}, "h: a schedule of 2 numbers for an LLM of 3 blocks"),
        (
            {"template": "the red circle : {caption} and", "max_tokens": 6},
            "max_tokens is 6; expected more than the template's 5 tokens and EOS, for every caption is cut away",
        ),
        (
            {"template": "chat"},
            "template is 'chat'; the tokenizer's chat template does not take a user's message: only",
        ),
    ],
)
def test_what_does_not_go_with_the_llm_is_refused_before_weights_are_read(
    folder_without_weights: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(f"LLM {folder_without_weights}: {message}")):
        Encoder.from_pretrained(folder_without_weights, EncoderConfig(**settings))


@pytest.fixture(scope="module")
def folder_without_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llm")
    transformers.LlamaConfig(**SMALL).save_pretrained(folder)
    words = tokenizer()
    words.chat_template = "{{ raise_exception('only systems speak') }}"
    words.save_pretrained(folder)
    save_file({}, folder / "model.safetensors")
    return folder
