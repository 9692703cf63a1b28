"""Encoders of folders: what is loaded, and what is refused before anything expensive."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers

from llmdiff.encoder import Encoder, EncoderConfig
from tests.encoder.tiny_models import SMALL, build, tokenizer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    build("llama").save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ["llama", "phi", "gemma3", "gpt-neox"])
def test_a_folder_gives_the_encoder_that_was_saved(name: str, tmp_path: Path) -> None:
    model = build(name)
    model.save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    config = EncoderConfig(dtype="float32")
    saved, loaded = Encoder(model, tokenizer(), config), Encoder.from_pretrained(tmp_path, config, device="cpu")
    assert saved.describe() == loaded.describe()
    assert torch.equal(saved(["a red circle"])[0], loaded(["a red circle"])[0])


def test_dtype_overrides_the_configuration(folder: Path) -> None:
    encoder = Encoder.from_pretrained(str(folder), EncoderConfig(dtype="float32"), dtype="bfloat16", device="cpu")
    assert encoder.config.dtype == "bfloat16"
    assert encoder.llm.dtype == torch.bfloat16


def test_a_missing_folder() -> None:
    with pytest.raises(FileNotFoundError, match="/no/such/folder: no such folder"):
        Encoder.from_pretrained("/no/such/folder")


def test_a_folder_without_a_tokenizer(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(ValueError, match="no tokenizer; expected one of tokenizer.json"):
        Encoder.from_pretrained(folder)


def test_a_folder_without_weights_or_configuration(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match="no \\*.safetensors weights"):
        Encoder.from_pretrained(folder)
    (folder / "config.json").unlink()
    with pytest.raises(ValueError, match="no config.json"):
        Encoder.from_pretrained(folder)


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        (0, "expected a safetensors file, found 0 bytes without its header"),
        (1000, "expected a safetensors file, found 1000 bytes without its header"),
        (-1, r"expected \d+ bytes, found \d+: the file is cut short"),
    ],
)
def test_truncated_weights(folder: Path, keep: int, message: str) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=f"model.safetensors: {message}"):
        Encoder.from_pretrained(folder)


def test_a_pointer_to_weights_that_were_not_fetched(folder: Path) -> None:
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n")
    with pytest.raises(ValueError, match=r"model.safetensors: expected a safetensors file, found \d+ bytes"):
        Encoder.from_pretrained(folder)


def test_a_file_in_place_of_a_folder(folder: Path) -> None:
    with pytest.raises(ValueError, match="config.json: expected a folder, found a file"):
        Encoder.from_pretrained(folder / "config.json")


def test_weights_of_another_model(folder: Path) -> None:
    """A file that lacks some of the model's weights would leave them random."""
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    weights.pop("model.layers.1.mlp.up_proj.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks 1 of the model's weights: model.layers.1.mlp.up_proj.weight"):
        Encoder.from_pretrained(folder)


def test_a_model_with_code_of_its_own(folder: Path) -> None:
    path = folder / "config.json"
    settings = json.loads(path.read_text())
    settings.update(model_type="homemade", auto_map={"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"})
    path.write_text(json.dumps(settings))
    (folder / "code.py").write_text("raise SystemExit('this code must not run')")
    with pytest.raises(ValueError, match="needs code from its own repository"):
        Encoder.from_pretrained(folder)


@pytest.mark.parametrize("model_type", ["t5", "clip_text_model", "vit"])
def test_a_model_that_is_no_decoder_only_llm(model_type: str, folder: Path) -> None:
    transformers.AutoConfig.for_model(model_type).save_pretrained(folder)
    with pytest.raises(ValueError, match="decoder-only"):
        Encoder.from_pretrained(folder)


def test_a_model_that_sees_what_comes_after() -> None:
    model = transformers.BertLMHeadModel(transformers.BertConfig(**{**SMALL, "is_decoder": False}))
    with pytest.raises(ValueError, match="BertLMHeadModel is not decoder-only"):
        Encoder(model, tokenizer(), EncoderConfig(dtype="float32"))


def test_a_recurrent_model_gives_no_word_scores() -> None:
    settings = {"vocab_size": 64, "hidden_size": 64, "num_hidden_layers": 2, "state_size": 8}
    model = transformers.MambaForCausalLM(transformers.MambaConfig(**settings))
    with pytest.raises(ValueError, match="do not run under a diagonal mask|in spite of the mask"):
        Encoder(model, tokenizer(), EncoderConfig(dtype="float32"))
