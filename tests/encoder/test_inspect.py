"""The figures and the picture that show what a caption's context adds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

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
    assert len(found.table().splitlines()) == 1 + 3 * 9 + 1 + 3 + 1 + 9


@pytest.mark.parametrize(
    "settings",
    [{}, {"g": "linear", "bands": 2}, *({"reading": name} for name in ("last", "layer:1", "layers:0,2", "norm_mean"))],
)
def test_the_last_lines_are_the_encodings(settings: dict[str, Any]) -> None:
    """Blocks' outputs are the same for all readings of hidden states."""
    encoder = Encoder(build("llama"), tokenizer(), EncoderConfig(dtype="float32", **settings))
    found = inspect(encoder, CAPTION)
    norms = encoder([CAPTION])[0].norm(dim=-1).reshape(encoder.config.bands, -1)
    assert torch.equal(found.encoding, norms)
    heading, *lines = found.table().splitlines()[-10:]
    assert heading == "norm of each token's encoding" + (", band by band:" if len(norms) > 1 else ":")
    for line, token, column in zip(lines, found.tokens, norms.T, strict=True):
        assert line.split() == [token, *(f"{norm:.4g}" for norm in column)]


def test_tokens_that_are_not_kept_are_told() -> None:
    config = EncoderConfig(dtype="float32", template="the small {caption} above", template_keep="caption")
    encoder = Encoder(build("llama"), tokenizer(), config)
    found = inspect(encoder, "red circle")
    assert found.kept == range(2, 4)
    told = [line.split(maxsplit=1) for line in found.table().splitlines()[-6:]]
    assert [token for token, norm in told if norm == "not kept"] == ["the", "small", "above", "<eos>"]
    assert [norm for _, norm in told[2:4]] == [f"{norm:.4g}" for norm in encoder(["red circle"])[0].norm(dim=-1)]
    colours = {colour for _, colour in draw_heat_map(found).getcolors(1 << 20)}
    whole = inspect(Encoder(build("llama"), tokenizer(), replace(config, template_keep="all")), "red circle")
    assert colours - {colour for _, colour in draw_heat_map(whole).getcolors(1 << 20)}, "their names are pale"


def test_an_encoding_under_the_isolated_path_needs_no_table(tmp_path: Path) -> None:
    config = EncoderConfig(dtype="float32", word_path="isolated", bands=2)
    encoder = Encoder(build("llama"), tokenizer(), config, cache_folder=tmp_path)
    found = inspect(encoder, CAPTION)
    assert not list(tmp_path.iterdir())
    torch.testing.assert_close(found.encoding, encoder([CAPTION])[0].norm(dim=-1))


def test_an_encoding_that_is_not_finite_is_shown_as_such() -> None:
    model = build("llama")
    with torch.no_grad():
        model.get_decoder().layers[1].mlp.down_proj.weight[5] = torch.inf
    found = inspect(Encoder(model, tokenizer(), EncoderConfig(dtype="float32")), CAPTION)
    assert found.norms["sentence"][0].isfinite().all()
    assert found.encoding.isnan().all()


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
