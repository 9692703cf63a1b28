"""Quantised weights: the same scores as of the weights that they stand for, by stand-ins and by the real packages."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from llmdiff.encoder import Encoder, EncoderConfig
from llmdiff.encoder.llm.content_hash import model_identity
from llmdiff.encoder.llm.quantization import METHODS, quantization_of
from llmdiff.extras import missing_extra
from tests.encoder.brute_force import scores
from tests.encoder.test_readings import CASES, TOLERANCE, Truth, relative
from tests.encoder.tiny_models import FAMILIES, build, tokenizer

CAPTIONS = ["a red circle next to the blue square", "a", "the small green triangle is above a large red square"]


class PackedLinear(nn.Module):
    """A linear layer as quantised ones are: codes and scales in place of a weight, unpacked in each pass."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach()
        scale = weight.abs().amax(dim=1, keepdim=True) / 127
        self.register_buffer("codes", (weight / scale).round().to(torch.int8))
        self.register_buffer("scale", scale)
        self.bias = linear.bias

    def unpacked(self) -> Tensor:
        return self.codes * self.scale

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.unpacked(), self.bias)


def pack(model: nn.Module) -> list[str]:
    """Put packed layers in the place of all linear ones of the blocks; return their names."""
    found = [(name, part) for name, part in model.named_modules() if isinstance(part, nn.Linear) and ".layers." in name]
    for name, linear in found:
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, PackedLinear(linear))
    return [name for name, _ in found]


def expected(encoder: Encoder, plain: Any, caption: str) -> Tensor:
    """``sum_t (S_t - W_t)`` of an ordinary model by brute force, in float64."""
    ids = encoder.tokenizer(caption)["input_ids"] + [encoder.tokenizer.eos_token_id]
    _, sentence, word = scores(plain, ids, encoder.config.word_path)
    return (sentence - word).sum(0)


@pytest.mark.parametrize("word_path", ["block", "isolated"])
@pytest.mark.parametrize("name", FAMILIES)
def test_packed_weights_give_the_scores_of_what_they_stand_for(name: str, word_path: str, tmp_path: Path) -> None:
    model, plain = (build(name, torch.float64) for _ in range(2))
    for path in pack(model):
        plain.get_submodule(path).weight.data = model.get_submodule(path).unpacked()
    config = EncoderConfig(dtype="float64", initial="zeros", word_path=word_path)
    encoder = Encoder(model, tokenizer(), config, cache_folder=tmp_path)
    for caption, encoding in zip(CAPTIONS, encoder(CAPTIONS), strict=True):
        assert relative(encoding, expected(encoder, plain, caption)) < 1e-10


@pytest.mark.parametrize("name", ["llama", "phi"])
def test_every_reading_of_packed_weights_is_that_of_what_they_stand_for(name: str) -> None:
    model, plain = (build(name, torch.float64) for _ in range(2))
    for path in pack(model):
        plain.get_submodule(path).weight.data = model.get_submodule(path).unpacked()
    truths = [Truth.of(plain, tokenizer(), caption) for caption in CAPTIONS]
    for settings in CASES:
        encoder = Encoder(model, tokenizer(), EncoderConfig(**settings))
        for encoding, truth in zip(encoder(CAPTIONS), truths, strict=True):
            assert relative(encoding, truth.read(encoder)) < TOLERANCE["float64"], settings


def test_the_bias_comes_off_in_16_bits_too(tmp_path: Path) -> None:
    """Adding it and taking it off rounds twice more, which stays within what bfloat16 is off anyway."""
    model, plain = (build("phi", torch.bfloat16) for _ in range(2))
    for path in pack(model):
        plain.get_submodule(path).weight.data = model.get_submodule(path).unpacked()
    encoder = Encoder(model, tokenizer(), EncoderConfig(initial="zeros"))
    for caption, encoding in zip(CAPTIONS, encoder(CAPTIONS), strict=True):
        assert relative(encoding, expected(encoder, plain, caption)) < 2e-2


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    build("llama").save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    return tmp_path


@pytest.fixture(params=["4bit", "8bit"])
def quantised(request: pytest.FixtureRequest, folder: Path) -> Encoder:
    """A model that the real package quantised on a CPU."""
    method = METHODS[request.param]
    pytest.importorskip(method.package, reason=f"{method.package} is not installed")
    config = EncoderConfig(dtype="float32", quantization=request.param, initial="zeros")
    return Encoder.from_pretrained(folder, config, device="cpu")


def unpacked_weight(linear: nn.Linear) -> Tensor:
    """What a layer's weights stand for, by what it makes of the unit vectors."""
    return (linear(torch.eye(linear.in_features)) - (0 if linear.bias is None else linear.bias)).T


@torch.no_grad()
def test_a_real_package_gives_the_readings_of_what_its_weights_stand_for(quantised: Encoder) -> None:
    plain, model = build("llama"), quantised.llm.model
    changed = 0.0
    for name, linear in plain.named_modules():
        if isinstance(linear, nn.Linear) and ".layers." in name:
            weight = unpacked_weight(model.get_submodule(name))
            changed = max(changed, relative(weight, linear.weight))
            linear.weight.copy_(weight)
    assert changed > 1e-3, "they were quantised"
    for caption, encoding in zip(CAPTIONS, quantised(CAPTIONS), strict=True):
        assert relative(encoding, expected(quantised, plain, caption)) < 1e-5
    truths = [Truth.of(plain, tokenizer(), caption) for caption in CAPTIONS]
    for settings in CASES:
        encoder = Encoder(model, tokenizer(), EncoderConfig(**settings))
        for encoding, truth in zip(encoder(CAPTIONS), truths, strict=True):
            assert relative(encoding, truth.read(encoder)) < TOLERANCE["float32"], settings


def test_a_real_package_says_how_in_the_fingerprint(quantised: Encoder, folder: Path) -> None:
    how = quantised.config.quantization
    config = EncoderConfig(dtype="float32", initial="zeros")
    described, whole = quantised.describe(), Encoder.from_pretrained(folder, config, device="cpu").describe()
    assert described["quantization"] == how
    assert described["llm"]["quantization"] == METHODS[how].words
    assert described["llm"]["content"] != whole["llm"]["content"]
    assert "quantization" not in whole
    assert "quantization" not in whole["llm"]
    quantised(CAPTIONS)
    assert model_identity(quantised.llm.backbone) == described["llm"]["content"], "encoding changes no weight"
    again = Encoder.from_pretrained(folder, quantised.config, device="cpu")
    assert again.describe() == described
    assert all(map(torch.equal, again(CAPTIONS), quantised(CAPTIONS)))


def test_a_model_that_is_quantised_already_is_taken_as_it_is(quantised: Encoder) -> None:
    encoder = Encoder(quantised.llm.model, tokenizer(), EncoderConfig(dtype="float32", initial="zeros"))
    assert all(map(torch.equal, encoder(CAPTIONS), quantised(CAPTIONS)))
    described = encoder.describe()
    assert described["llm"]["content"] == quantised.describe()["llm"]["content"]
    assert described["llm"]["quantization"] == METHODS[quantised.config.quantization].package


def test_weights_that_come_quantised_are_described_as_such() -> None:
    """A stand-in takes the place of what reads GPTQ, which is not installed here."""
    model, plain = build("llama"), Encoder(build("llama"), tokenizer(), EncoderConfig()).describe()
    model.config.quantization_config = {"quant_method": "gptq", "bits": 4}
    described = Encoder(model, tokenizer(), EncoderConfig()).describe()
    assert described["llm"].pop("quantization") == "gptq"
    assert described["llm"].pop("content") != plain["llm"].pop("content")
    assert described == plain, "and a whole LLM's description says nothing of it"


def test_a_quantised_folder_is_not_quantised_again(folder: Path) -> None:
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder)
    config.quantization_config = {"quant_method": "gptq", "bits": 4, "group_size": 32}
    config.save_pretrained(folder)
    with pytest.raises(ValueError, match=r"'4bit': found weights that are quantised already \(gptq\); expected 'none'"):
        Encoder.from_pretrained(folder, EncoderConfig(quantization="4bit"))
    with pytest.raises(ValueError, match=r"LLM .*: cannot read its weights: .*"):
        Encoder.from_pretrained(folder)  # what reads GPTQ is not installed here


@pytest.mark.parametrize("how", METHODS)
def test_the_extra_is_named_where_a_package_is_missing(how: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = METHODS[how].package
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    with pytest.raises(ModuleNotFoundError, match=rf"'{how}' needs {package}: pip install 'llmdiff\[quan") as error:
        Encoder.from_pretrained(folder, EncoderConfig(quantization=how))
    assert missing_extra(error.value) == f"this needs {package}: pip install 'llmdiff[quantized]'"


def test_a_model_that_is_not_as_the_settings_say() -> None:
    with pytest.raises(
        ValueError, match=r"quantization is '8bit'; expected weights of torchao int8 .*, found none that"
    ):
        Encoder(build("llama"), tokenizer(), EncoderConfig(dtype="float32", quantization="8bit"))


def test_settings_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="quantization must be one of none, 4bit, 8bit; got '2bit'"):
        EncoderConfig(quantization="2bit")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="quantization is '4bit': expected dtype of 16 or 32 bits, found float64"):
        EncoderConfig(quantization="4bit", dtype="float64")


@pytest.mark.parametrize("of", [lambda method: method, lambda method: SimpleNamespace(value=method)])
def test_the_method_of_a_configuration(of: Any) -> None:
    """A folder's is a mapping; a loaded model's an object, whose method may be an enumeration's."""
    assert quantization_of(SimpleNamespace(quantization_config={"quant_method": of("awq")})) == "awq"
    assert quantization_of(SimpleNamespace(quantization_config=SimpleNamespace(quant_method=of("awq")))) == "awq"
    assert quantization_of(SimpleNamespace()) is None
