"""An LLM whose blocks are compiled: the same encodings under the same key, and no code for each length."""

from __future__ import annotations

import pytest
import torch

from llmdiff.encoder import Encoder, EncoderConfig
from llmdiff.encoder.llm.compiled import compile_blocks, unread_parts
from llmdiff.encoder.llm.loading import Placement
from tests.encoder.tiny_models import build, tokenizer
from tests.examples import some
from tests.graphs import Graphs

pytestmark = pytest.mark.xdist_group("torch.compile")
CAPTIONS = ["a red circle", "a", "the small green triangle is above a large red square", "a blue square and a circle"]
MORE = [" ".join(["red"] * length) for length in range(5, 15)]


@pytest.mark.filterwarnings("ignore:.*unknown family")
@pytest.mark.parametrize(
    ("name", "reading", "known"),
    some([("llama", "score", True), ("phi", "score", True), ("gemma2", "mean", True), ("llama", "score", False)]),
)
def test_compiled_blocks_encode_the_same(
    graphs: Graphs, name: str, reading: str, known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not known:
        monkeypatch.setattr("llmdiff.encoder.llm.decoder_llm.FAMILIES", {})
    model, config = build(name), EncoderConfig(dtype="float32", reading=reading)
    plain = Encoder(model, tokenizer(), config)
    expected, about = plain(CAPTIONS), plain.describe()
    encoder = Encoder(model, tokenizer(), config)
    compile_blocks(encoder.llm)
    for one, other in zip(encoder(CAPTIONS), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    assert encoder.describe() == about
    made = graphs.count
    assert made > 0
    for caption in MORE:
        encoder([caption, "a"])
        encoder([caption, caption + " circle", caption])
    assert graphs.count - made <= 6  # one caption alone, one token alone, all of a batch as long
    before = graphs.count
    for caption in MORE:
        encoder([caption, "a red", "a"])
    assert graphs.count == before
    assert graphs.breaks == []


def test_nothing_that_is_read_lies_inside_a_compiled_part() -> None:
    encoder = Encoder(build("gemma2"), tokenizer(), EncoderConfig(dtype="float32"))
    assert encoder.llm.family is not None
    layer = encoder.llm.layers[0]
    names = {id(part): name for name, part in layer.named_modules()}
    assert {names[id(part)] for part in unread_parts(layer, encoder.llm.family.read)} == {
        *("mlp", "input_layernorm", "post_attention_layernorm"),
        *("pre_feedforward_layernorm", "post_feedforward_layernorm"),
    }


def test_what_can_not_be_compiled_is_refused_before_anything_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="expected torch_compile or device_map, found both: 'auto'"):
        Placement(torch_compile=True, device_map="auto")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ValueError, match="torch_compile: expected the compiler .* on this machine, found none"):
        Placement(torch_compile=True)
