"""The figures and the picture that show what a caption's context adds."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from llmdiff.encoder import Encoder, EncoderConfig
from llmdiff.encoder.inspect import colour, draw_heat_map, inspect, log_scale, printable, write_heat_map
from tests.encoder.brute_force import scores
from tests.encoder.tiny_models import build, tokenizer

CAPTION = "a red circle next to a blue square"


@pytest.mark.parametrize("word_path", ["block", "isolated"])
@pytest.mark.parametrize("name", ["llama", "phi", "gemma2"])
def test_norms_are_those_of_the_scores(name: str, word_path: str) -> None:
    model = build(name)
    found = inspect(Encoder(model, tokenizer(), EncoderConfig(dtype="float32", word_path=word_path)), CAPTION)
    ids = [*tokenizer()(CAPTION)["input_ids"], 1]
    _, sentence, word = scores(model, ids, word_path)
    assert found.tokens == [*CAPTION.split(), "<eos>"]
    assert list(found.norms) == ["sentence", "word", "context"]
    for norms, expected in zip(found.norms.values(), [sentence, word, sentence - word], strict=True):
        torch.testing.assert_close(norms.double(), expected.norm(dim=-1), rtol=1e-4, atol=1e-4)
    assert not found.norms["context"][:, 0].any()


def test_outlier_channels_are_found() -> None:
    model = build("phi")
    with torch.no_grad():
        model.model.layers[1].mlp.fc2.bias[17] = 500.0
    found = inspect(Encoder(model, tokenizer(), EncoderConfig(dtype="float32")), CAPTION)
    assert [outlier.channel for outlier in found.outliers[1:]] == [17, 17]
    assert found.outliers[1].ratio > 100
    assert "channel    17" in found.table()
    assert len(found.table().splitlines()) == 1 + 3 * 9 + 1 + 3


def test_the_heat_map_is_a_picture_with_a_bright_and_a_dark_end(tmp_path) -> None:
    found = inspect(Encoder(build("llama"), tokenizer(), EncoderConfig(dtype="float32")), CAPTION)
    write_heat_map(found, tmp_path / "map.png")
    with Image.open(tmp_path / "map.png") as image:
        assert image.size == draw_heat_map(found).size
        colours = {pixel for _, pixel in image.convert("RGB").getcolors(1 << 20)}
    assert {colour(0.0), colour(1.0)} <= colours
    assert log_scale(torch.tensor([0.0, 1.0, 10.0, 100.0])).tolist() == pytest.approx([0.0, 0.0, 0.5, 1.0])
    assert not log_scale(torch.zeros(3)).any()


def test_a_long_caption_goes_on_in_the_next_line_and_a_token_may_hold_any_letter() -> None:
    encoder = Encoder(build("llama"), tokenizer(), EncoderConfig(dtype="float32"))
    short, long = (draw_heat_map(inspect(encoder, caption)) for caption in (CAPTION, f"{CAPTION} " * 6))
    cells = (6 - 1) * len(CAPTION.split()) * 18
    assert long.size == (short.width, short.height + cells + 2 * 12)
    assert printable("\u0120red \u2581circle 猫 \u00e9") == "\u00b7red \u00b7circle ? \u00e9"
