"""Values that are not finite are named by caption, block, token and channel, and other captions go on."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from llmdiff.encoder import Encoder, EncoderConfig, NonFinite
from tests.encoder.tiny_encoder import CAPTIONS, make
from tests.encoder.tiny_models import WORDS, build, tokenizer


def fragile() -> Encoder:
    """A Phi in float16 whose block 1 overflows at channel 5 for the word "triangle" and for nothing else."""
    encoder = make("phi", dtype="float16")
    with torch.no_grad():
        encoder.llm.backbone.get_input_embeddings().weight[tokenizer().convert_tokens_to_ids("triangle"), 5] = 60000.0
        encoder.llm.layers[1].mlp.fc2.bias[5] = 10000.0
    return encoder


@pytest.mark.parametrize("word_path", ["block", "isolated"])
def test_a_non_finite_caption_is_named_and_the_rest_go_on(word_path: str, tmp_path) -> None:
    fine = fragile()(CAPTIONS[:2])
    encoder = fragile()
    if word_path == "isolated":
        config = EncoderConfig(dtype="float16", word_path="isolated")
        encoder = Encoder(encoder.llm.model, encoder.tokenizer, config, cache_folder=tmp_path)
    results = encoder.encode(CAPTIONS)
    error = results[2]
    assert isinstance(error, NonFinite)
    assert (error.caption, error.block, error.token, error.channel) == (CAPTIONS[2], 1, 3, 5)
    assert "block 1, token 3, channel 5" in str(error)
    if word_path == "block":
        assert all(torch.equal(one, other) for one, other in zip(results[:2], fine, strict=True))
    with pytest.raises(NonFinite, match="triangle"):
        encoder(CAPTIONS)


def spoiled(model: Any, value: float, *, alone: bool) -> Any:
    """The model with `value` in channel 5 of its last MLP for "triangle": always, or only where it is alone."""
    seen: list[torch.Tensor] = []
    model.get_decoder().register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["input_ids"]), with_kwargs=True
    )

    def spoil(module: torch.nn.Module, args: tuple[torch.Tensor], output: torch.Tensor) -> None:
        if seen[-1].shape[1] == 1 or not alone:
            output[seen[-1] == 3 + WORDS.index("triangle"), 5] = value

    model.get_decoder().layers[-1].mlp.register_forward_hook(spoil)
    return model


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("word_path", ["block", "isolated"])
@pytest.mark.parametrize("name", ["phi", "gpt-neox", "llama"])
def test_a_last_block_that_is_not_finite_is_named(name: str, word_path: str, value: float, tmp_path) -> None:
    """The MLP of a parallel block cancels in the score, and no block comes after the last to show what it gave."""
    config = EncoderConfig(dtype="float32", word_path=word_path)
    *fine, error = Encoder(spoiled(build(name), value, alone=False), tokenizer(), config, cache_folder=tmp_path).encode(
        CAPTIONS
    )
    assert not any(isinstance(encoding, NonFinite) for encoding in fine)
    assert isinstance(error, NonFinite)
    assert (error.caption, error.block, error.token, error.channel) == (CAPTIONS[2], 2, 3, 5)


def test_a_token_that_is_not_finite_alone_is_named(tmp_path) -> None:
    config = EncoderConfig(dtype="float32", word_path="isolated")
    encoder = Encoder(spoiled(build("llama"), torch.nan, alone=True), tokenizer(), config, cache_folder=tmp_path)
    error = encoder.encode(CAPTIONS)[2]
    assert isinstance(error, NonFinite)
    assert (error.block, error.token, error.channel) == (2, 3, 5)


def test_a_non_finite_embedding_is_named() -> None:
    encoder = make()
    with torch.no_grad():
        encoder.llm.backbone.get_input_embeddings().weight[3 + WORDS.index("red"), 7] = torch.nan
    error = encoder.encode(["a red circle"])[0]
    assert isinstance(error, NonFinite)
    assert (error.block, error.token, error.channel) == (-1, 1, 7)
