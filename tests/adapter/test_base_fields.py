"""Bases as they are: odd fields and missing weights are refused in one line, by file and field, before any loading."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from llmdiff.diffusion.base import load_noise_schedule, load_unet, unet_config
from llmdiff.diffusion.latents import LatentEncoder, check_autoencoder
from llmdiff.diffusion.text import BaseTextEncoder
from tests.adapter import tiny

CONFIGS = {"vae": "config.json", "unet": "config.json", "scheduler": "scheduler_config.json"}
CHECKS: dict[str, Callable[[str], Any]] = {
    "vae": check_autoencoder,
    "unet": unet_config,
    "scheduler": load_noise_schedule,
}
LOADERS: dict[str, Callable[[str], Any]] = {
    "vae": LatentEncoder.from_pretrained,
    "unet": load_unet,
    "text_encoder": BaseTextEncoder.from_pretrained,
}


def changed(folder: Path, part: str, change: Callable[[dict[str, Any]], Any]) -> str:
    file = tiny.save_base(folder) / part / CONFIGS[part]
    config = json.loads(file.read_text())
    found = change(config)
    file.write_text(json.dumps(config if found is None else found))
    return str(folder)


@pytest.mark.parametrize(
    ("part", "field", "value", "expected"),
    [
        ("vae", "scaling_factor", None, "a number above 0, found None"),
        ("vae", "scaling_factor", "0.18215", "a number above 0, found '0.18215'"),
        ("vae", "scaling_factor", 0, "a number above 0, found 0"),
        ("vae", "_class_name", "AutoencoderTiny", "AutoencoderKL, found 'AutoencoderTiny'"),
        ("vae", "block_out_channels", [], r"a list of whole numbers above 0, found \[\]"),
        ("unet", "cross_attention_dim", None, "its width, found None"),
        ("unet", "in_channels", None, "a whole number above 0, found None"),
        ("scheduler", "num_train_timesteps", "1000", "a whole number above 0, found '1000'"),
        ("scheduler", "_class_name", "FlowMatchEulerDiscreteScheduler", "a schedule of noise levels, .* 'FlowMatch"),
        ("scheduler", "prediction_type", None, "one of epsilon, .*, found None"),
    ],
)
def test_a_field_that_cannot_be_used_is_named(
    tmp_path: Path, part: str, field: str, value: object, expected: str
) -> None:
    base = changed(tmp_path / "sd", part, lambda config: config.update({field: value}))
    with pytest.raises(ValueError, match=rf"{part}/{CONFIGS[part]}: {field}: expected {expected}"):
        CHECKS[part](base)


@pytest.mark.parametrize("part", CHECKS)
def test_a_configuration_that_is_no_mapping_is_named(tmp_path: Path, part: str) -> None:
    base = changed(tmp_path / "sd", part, lambda config: [1])
    with pytest.raises(ValueError, match=rf"{part}/{CONFIGS[part]}: expected a JSON object, found \[1\]"):
        CHECKS[part](base)


@pytest.mark.parametrize(
    ("part", "field"),
    [("vae", "scaling_factor"), ("vae", "_class_name"), ("scheduler", "prediction_type"), ("unet", "_class_name")],
)
def test_a_field_that_is_missing_has_the_librarys_default(tmp_path: Path, part: str, field: str) -> None:
    CHECKS[part](changed(tmp_path / "sd", part, lambda config: config.pop(field, None) and None))


def test_a_field_and_a_part_that_nobody_knows_are_no_error(tmp_path: Path) -> None:
    for part, check in CHECKS.items():
        check(changed(tmp_path / part, part, lambda config: config.update(of_another_tool=[1])))
    index = tmp_path / "vae" / "model_index.json"
    index.write_text(json.dumps({"_class_name": "StableDiffusionPipeline", "other": ["else", "Other"]}))
    LatentEncoder.from_pretrained(str(tmp_path / "vae"))


def test_a_noise_schedule_that_cannot_be_built_is_told_in_one_line(tmp_path: Path) -> None:
    base = changed(tmp_path / "sd", "scheduler", lambda config: config.update(beta_schedule="unknown"))
    with pytest.raises(ValueError, match="cannot read its scheduler: unknown is not implemented"):
        load_noise_schedule(base)


@pytest.mark.parametrize("part", LOADERS)
def test_a_part_that_lacks_a_weight_is_refused(tmp_path: Path, part: str) -> None:
    """The libraries leave it random, or without a value, and say so in a log."""
    folder = tiny.save_base(tmp_path / "sd")
    (file,) = (folder / part).glob("*.safetensors")
    weights = load_file(file)
    weights.pop(lost := sorted(weights)[0])
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=f"its {part} lacks 1 of the model's weights: {lost.split('.', 1)[-1]}|{lost}"):
        LOADERS[part](str(folder))


def test_old_names_of_an_autoencoders_attention_are_whole_weights(tmp_path: Path) -> None:
    folder = tiny.save_base(tmp_path / "sd")
    (file,) = (folder / "vae").glob("*.safetensors")
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    weights = load_file(file)
    for new, old in names.items():
        weights = {name.replace(new, old): tensor for name, tensor in weights.items()}
    save_file(weights, file, metadata={"format": "pt"})
    LatentEncoder.from_pretrained(str(folder))
