"""Several readings from one pass of an LLM: each is what its own encoder gives."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from llmdiff.encoder import BadCaption, Encoder, EncoderConfig, NonFinite
from llmdiff.encoder.shared_pass import encode_readings
from tests.encoder.tiny_encoder import flops
from tests.encoder.tiny_models import build, tokenizer

CAPTIONS = ["a red circle next to the blue square", "a", "", "the small green triangle is above a large red square"]
READINGS = ["last", "score", "layers:3,0", "norm_mean", "score_norm", "layer:-2", "mean"]


@pytest.mark.parametrize("name", ["llama", "phi", "gemma2"])
@pytest.mark.parametrize(
    "own", [{}, {"reading": "layers:1,2"}, {"bands": 2, "template": "{caption} is", "g": "linear"}]
)
def test_a_shared_pass_gives_what_each_reading_gives_alone(name: str, own: dict[str, object]) -> None:
    config = EncoderConfig(token_budget=30, **own)
    encoder = Encoder(build(name), tokenizer(), config)
    readings = [reading for reading in READINGS if "g" not in own or "score" in reading]
    together = encode_readings(encoder, [*readings, readings[0]], CAPTIONS)
    assert list(together) == readings
    for reading, encodings in together.items():
        bands = 2 if "bands" in own and "score" in reading else 1
        alone = Encoder(build(name), tokenizer(), dataclasses.replace(config, reading=reading, bands=bands))
        for one, other in zip(encodings, alone(CAPTIONS), strict=True):
            assert torch.equal(one, other), reading


def test_readings_share_one_pass() -> None:
    encoder = Encoder(build("llama"), tokenizer(), EncoderConfig())
    for readings, dearest in (READINGS, "score"), (["last", "mean", "layer:1"], "last"):
        alone = flops(lambda dearest=dearest: encode_readings(encoder, [dearest], CAPTIONS))
        assert flops(lambda readings=readings: encode_readings(encoder, readings, CAPTIONS)) == alone > 0


def test_what_does_not_go_together_is_refused() -> None:
    encoder = Encoder(build("llama"), tokenizer(), EncoderConfig())
    with pytest.raises(ValueError, match="reading is layer:9; expected layers from 0 to 3"):
        encode_readings(encoder, ["last", "layer:9"], CAPTIONS)
    isolated = Encoder(build("llama"), tokenizer(), EncoderConfig(word_path="isolated"))
    with pytest.raises(ValueError, match="word_path is 'isolated'; expected 'block'"):
        encode_readings(isolated, ["score"], CAPTIONS)
    bare = Encoder(build("llama"), tokenizer(), EncoderConfig(append_eos=False))
    with pytest.raises(BadCaption, match="caption '' has no token"):
        encode_readings(bare, ["score", "last"], CAPTIONS)


def test_a_caption_that_one_reading_is_not_finite_of_is_named() -> None:
    model = build("llama")
    with torch.no_grad():
        model.get_decoder().layers[1].mlp.down_proj.weight[5] = torch.inf
    encoder = Encoder(model, tokenizer(), EncoderConfig())
    with pytest.raises(NonFinite) as error:
        encode_readings(encoder, ["layer:1", "last"], ["a red circle"])
    assert (error.value.block, error.value.token, error.value.channel) == (1, 0, 5)
    fine = encode_readings(encoder, ["layer:1", "layer:0"], ["a red circle"])
    assert fine["layer:1"][0].isfinite().all()
