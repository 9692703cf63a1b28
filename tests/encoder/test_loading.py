"""Encoders of folders: what is loaded, and what is refused before anything expensive."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers

from llmdiff.encoder import Encoder, EncoderConfig
from llmdiff.encoder.llm.content_hash import tokenizer_identity
from tests.encoder.tiny_models import SMALL, build, tokenizer

ROOT = Path(__file__).parents[2]


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


def test_eos_pads_where_a_loaded_tokenizer_has_no_pad_token(folder: Path, caplog) -> None:
    """Phi's and Llama's tokenizers have none. Fingerprint and encodings are the same as without a pad token."""
    words = tokenizer()
    expected = Encoder(build("llama"), words, EncoderConfig(dtype="float32"))(["a red circle", "a"])
    words.pad_token = None
    bare = tokenizer_identity(words)
    words.save_pretrained(folder)
    with caplog.at_level(logging.INFO):
        encoder = Encoder.from_pretrained(folder, EncoderConfig(dtype="float32"), device="cpu")
    assert encoder.tokenizer.pad_token == "<eos>"
    assert "its tokenizer has no pad token; EOS (<eos>) is the padding" in caplog.text
    assert encoder.describe()["tokenizer"] == bare
    assert all(torch.equal(one, other) for one, other in zip(encoder(["a red circle", "a"]), expected, strict=True))
    words.eos_token = None
    words.save_pretrained(folder)
    with pytest.raises(ValueError, match=f"LLM {folder}: its tokenizer has no pad token and no EOS token to be one"):
        Encoder.from_pretrained(folder, EncoderConfig(dtype="float32", append_eos=False))


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
    with pytest.raises(ValueError, match="config.json: expected a folder or a .gguf file, found a file"):
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


@pytest.mark.timeout(60)
@pytest.mark.parametrize("blocks", [200_000, 0, -1])
def test_a_configuration_of_more_blocks_than_there_are(folder: Path, blocks: int) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "num_hidden_layers": blocks}))
    with pytest.raises(
        ValueError, match=rf"num_hidden_layers: expected (1 to 1000 blocks|at most 1000 layers), found {blocks}"
    ):
        Encoder.from_pretrained(folder)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("head_dim", 0),
        ("head_dim", -1),
        ("head_dim", 10**30),
        ("head_dim", 2**40),
        ("hidden_act", 7),
        ("mlp_bias", "x"),
    ],
)
def test_a_configuration_of_odd_values_is_one_line(folder: Path, setting: str, value: object) -> None:
    """Each is another kind of error to transformers or torch."""
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), setting: value}))
    with pytest.raises(ValueError, match=rf"^LLM {folder}: cannot read its (config|weights): .*[^:]$") as caught:
        Encoder.from_pretrained(folder)
    assert "\n" not in str(caught.value)


def test_a_configuration_that_is_deep(folder: Path) -> None:
    (folder / "config.json").write_text('{"a": ' * 100_000)
    with pytest.raises(ValueError, match="cannot read its config: ") as caught:
        Encoder.from_pretrained(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"quantization_config": {"load_in_8bit": True}}, "bitsandbytes"),
        ({"quantization_config": {"bits": 3}}, "quant_method"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "requires"),
        (
            {"rope_parameters": {"rope_type": "spiral", "rope_theta": 1.0}},
            "KeyError: 'spiral'",
        ),
        ({"model_type": "llama9", "transformers_version": "99.1"}, r"of transformers 99\.1, here is \d"),
    ],
)
def test_a_configuration_of_what_is_not_here_is_one_line(
    folder: Path, settings: dict[str, object], message: str
) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))
    with pytest.raises(ValueError, match=rf"^LLM {folder}: cannot read its .*{message}") as caught:
        Encoder.from_pretrained(folder, device="cpu")
    assert "\n" not in str(caught.value)


def test_weights_under_another_name(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "consolidated.safetensors")
    expected = "expected model.safetensors, or model.safetensors.index.json that names its parts; found consolidated"
    with pytest.raises(ValueError, match=expected):
        Encoder.from_pretrained(folder)


@pytest.mark.parametrize("model_type", ["t5", "clip_text_model", "vit"])
def test_a_model_that_is_no_decoder_only_llm(model_type: str, folder: Path) -> None:
    transformers.AutoConfig.for_model(model_type).save_pretrained(folder)
    with pytest.raises(ValueError, match="decoder-only"):
        Encoder.from_pretrained(folder)


def test_a_model_of_pictures_and_text_is_refused_for_its_language_model(folder: Path) -> None:
    transformers.AutoConfig.for_model("llava").save_pretrained(folder)
    expected = r"model type 'llava' is no decoder-only LLM; expected its language model \(llama\) by itself"
    with pytest.raises(ValueError, match=expected):
        Encoder.from_pretrained(folder)


@pytest.mark.parametrize("name", ["T5ForConditionalGeneration", "T5EncoderModel", "BartForConditionalGeneration"])
def test_an_encoder_decoder_object(name: str) -> None:
    settings = {"vocab_size": 64, "d_model": 48, "d_kv": 12, "d_ff": 80, "num_layers": 2, "num_heads": 4}
    bart = {"encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4}
    model_class = getattr(transformers, name)
    model = model_class(model_class.config_class(**settings, **(bart if "Bart" in name else {})))
    with pytest.raises(ValueError, match="encoder-decoder; expected a decoder-only LLM|is not decoder-only"):
        Encoder(model, tokenizer(), EncoderConfig(dtype="float32"))


def test_an_object_with_code_of_its_own() -> None:
    """A class counts as foreign code where transformers imported it under such a package; so does a subclass of one."""
    module = "transformers_modules.someone.homemade.modeling"
    homemade = type("HomemadeForCausalLM", (transformers.LlamaForCausalLM,), {"__module__": module})
    for model_class in (homemade, type("Derived", (homemade,), {})):
        with pytest.raises(ValueError, match=f"{model_class.__name__} is of code from its own repository"):
            Encoder(model_class(transformers.LlamaConfig(**SMALL)), tokenizer(), EncoderConfig(dtype="float32"))


HUB = """
import sys, torch
from llmdiff.encoder import Encoder, EncoderConfig
from tests.encoder.tiny_models import build

for revision, name in (("main", "llama"), ("other", "phi"), ("1" * 40, "phi"), (None, "llama")):
    encoder = Encoder.from_pretrained("someone/tiny", EncoderConfig(dtype="float32"), revision=revision, device="cpu")
    assert encoder.llm.config.model_type == name
    assert torch.equal(encoder.llm.backbone.embed_tokens.weight, build(name).model.embed_tokens.weight)
    assert encoder.tokenizer.model_max_length == {"llama": 256, "phi": 99}[name]
try:
    Encoder.from_pretrained("someone/tiny", revision="third", device="cpu")
except ValueError as error:
    print(error)
"""


@pytest.mark.process
def test_a_revision_of_the_hub(tmp_path: Path) -> None:
    """Where the hub's cache holds two commits, configuration, tokenizer and weights are those of the revision."""
    repository = tmp_path / "models--someone--tiny"
    for digit, branch, name, length in (("0", "main", "llama", 256), ("1", "other", "phi", 99)):
        snapshot = repository / "snapshots" / (digit * 40)
        build(name).save_pretrained(snapshot)
        words = tokenizer()
        words.model_max_length = length
        words.save_pretrained(snapshot)
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / branch).write_text(digit * 40)
    env = {**os.environ, "HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", HUB]
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert "LLM someone/tiny: no folder of that name here; from the hub: cannot read its config" in done.stdout


def test_a_model_that_sees_what_comes_after() -> None:
    model = transformers.BertLMHeadModel(transformers.BertConfig(**{**SMALL, "is_decoder": False}))
    with pytest.raises(ValueError, match="BertLMHeadModel is not decoder-only"):
        Encoder(model, tokenizer(), EncoderConfig(dtype="float32"))


def test_a_recurrent_model_gives_no_word_scores() -> None:
    settings = {"vocab_size": 64, "hidden_size": 64, "num_hidden_layers": 2, "state_size": 8}
    model = transformers.MambaForCausalLM(transformers.MambaConfig(**settings))
    with pytest.raises(ValueError, match="do not run under a diagonal mask|in spite of the mask"):
        Encoder(model, tokenizer(), EncoderConfig(dtype="float32"))
