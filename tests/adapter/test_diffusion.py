"""The frozen base's parts: text features, latents, targets."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from llmdiff.diffusion.base import (
    latent_size,
    load_noise_schedule,
    load_unet,
    schedule_config,
    snr_weights,
    training_target,
)
from llmdiff.diffusion.latents import LatentEncoder, decode_samples
from llmdiff.diffusion.text import BaseTextEncoder
from llmdiff.encoder.tokens import BadCaption
from tests.adapter import tiny

CAPTIONS = ["a b", "", "a caption of more than twelve letters"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_base(tmp_path_factory.mktemp("base"), prediction_type="v_prediction")


def test_base_text_features_are_what_stable_diffusion_reads(base: Path) -> None:
    encoder = BaseTextEncoder.from_pretrained(base)
    done = []
    encodings = encoder(CAPTIONS, progress=lambda count, total: done.append((count, total)))
    expected = tiny.pipeline().encode_prompt(CAPTIONS, "cpu", 1, False)[0]
    assert torch.equal(torch.stack(encodings), expected)
    assert encodings[0].shape == (tiny.TOKENS, encoder.hidden_size)
    assert encodings[0].dtype == torch.float32
    assert done == [(3, 3)]
    assert encoder.truncated == 1


def test_a_token_without_an_embedding_costs_its_own_caption_alone(base: Path) -> None:
    encoder = BaseTextEncoder.from_pretrained(str(base))
    encoder.tokenizer.add_tokens(["<sks>"])
    first, bad, last = encoder.encode(["a red circle", "a <sks> dog", "a blue square"])
    assert isinstance(bad, BadCaption)
    assert bad.reason == "no_embedding"
    for found, caption in ((first, "a red circle"), (last, "a blue square")):
        torch.testing.assert_close(found, encoder([caption])[0])


def test_description_of_the_text_encoder_follows_its_weights(base: Path) -> None:
    one, other = BaseTextEncoder.from_pretrained(base), BaseTextEncoder.from_pretrained(base)
    assert one.describe() == other.describe() == json.loads(json.dumps(one.describe()))
    with torch.no_grad():
        next(other.text_encoder.parameters()).add_(0.1)
    assert one.describe() != other.describe()


def test_latents_are_the_scaled_mean(base: Path) -> None:
    encoder = LatentEncoder.from_pretrained(base)
    images = np.random.default_rng(0).integers(256, size=(2, 64, 64, 3), dtype=np.uint8)
    latents = encoder(images)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1
    expected = encoder.vae.encode(pixels).latent_dist.mode() * encoder.vae.config.scaling_factor
    assert latents.shape == (2, 4, 8, 8)
    assert latents.dtype == torch.float16
    torch.testing.assert_close(latents, expected.half())
    assert torch.equal(encoder(images), latents)
    decoded = encoder.decode(latents)
    assert decoded.shape == images.shape
    assert decoded.dtype == np.uint8


def test_an_autoencoder_whose_latents_are_normalised_otherwise_is_refused() -> None:
    vae = tiny.vae()
    vae.register_to_config(latents_mean=[0.1] * 4)
    with pytest.raises(ValueError, match="has latents_mean .*, expected None"):
        LatentEncoder(vae)


@pytest.mark.parametrize("shape", [(64, 64, 3), (1, 64, 60, 3), (1, 3, 64, 64)])
def test_images_of_another_shape_are_refused(base: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected"):
        LatentEncoder.from_pretrained(base)(np.zeros(shape, np.uint8))


def test_samples_of_training_decode_to_pictures(base: Path, tmp_path: Path) -> None:
    path = tmp_path / "step-00000001.safetensors"
    save_file({"latents": torch.zeros(2, 4, 8, 8)}, path, metadata={"prompts": json.dumps(["a", "b"])})
    pictures = decode_samples(path, LatentEncoder.from_pretrained(base))
    assert [(prompt, picture.size) for prompt, picture in pictures] == [("a", (64, 64)), ("b", (64, 64))]


LOADERS = {
    "vae": LatentEncoder.from_pretrained,
    "unet": load_unet,
    "text_encoder": BaseTextEncoder.from_pretrained,
    "tokenizer": BaseTextEncoder.from_pretrained,
    "scheduler": load_noise_schedule,
}


@pytest.mark.parametrize("part", LOADERS)
def test_a_part_that_is_missing_is_named(base: Path, tmp_path: Path, part: str) -> None:
    shutil.copytree(base, tmp_path / "sd", ignore=shutil.ignore_patterns(part))
    with pytest.raises((ValueError, FileNotFoundError), match=f"diffusion folder .*sd: its {part}: no .*; expected"):
        LOADERS[part](str(tmp_path / "sd"))


@pytest.mark.parametrize("part", ["vae", "unet", "text_encoder"])
def test_weights_cut_short_are_named(base: Path, tmp_path: Path, part: str) -> None:
    shutil.copytree(base, tmp_path / "sd")
    (weights,) = (tmp_path / "sd" / part).glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(ValueError, match=rf"{part}/{weights.name}: expected \d+ bytes, found \d+"):
        LOADERS[part](str(tmp_path / "sd"))


def test_a_broken_configuration_names_model_and_part(base: Path, tmp_path: Path) -> None:
    shutil.copytree(base, tmp_path / "sd")
    (tmp_path / "sd" / "unet" / "config.json").write_text("{")
    with pytest.raises(ValueError, match="diffusion model .*sd: cannot read its unet: "):
        load_unet(str(tmp_path / "sd"))


def test_no_base_at_all(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="diffusion folder .*gone: no such folder"):
        load_unet(str(tmp_path / "gone"))


def test_unet_is_frozen(base: Path) -> None:
    unet = load_unet(str(base))
    assert not unet.training
    assert not any(parameter.requires_grad for parameter in unet.parameters())


def test_targets_follow_the_base(base: Path) -> None:
    latents, noise, timesteps = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8), torch.tensor([10, 900])
    schedule = load_noise_schedule(str(base))
    alpha = schedule.alphas_cumprod[timesteps][:, None, None, None]
    velocity = alpha.sqrt() * noise - (1 - alpha).sqrt() * latents
    torch.testing.assert_close(training_target(schedule, latents, noise, timesteps), velocity)
    schedule.register_to_config(prediction_type="epsilon")
    assert training_target(schedule, latents, noise, timesteps) is noise
    schedule.register_to_config(prediction_type="flow")
    with pytest.raises(ValueError, match="found 'flow'"):
        training_target(schedule, latents, noise, timesteps)


def test_min_snr_weights(base: Path) -> None:
    schedule, timesteps = load_noise_schedule(str(base)), torch.tensor([0, 500, 999])
    alpha = schedule.alphas_cumprod[timesteps]
    snr = alpha / (1 - alpha)
    torch.testing.assert_close(snr_weights(schedule, timesteps, 5.0), snr.clamp(max=5) / (snr + 1))
    schedule.register_to_config(prediction_type="epsilon")
    torch.testing.assert_close(snr_weights(schedule, timesteps, 5.0), snr.clamp(max=5) / snr)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_a_base_with_weights_of_one_variant_alone_is_loaded(tmp_path: Path, part: str) -> None:
    folder = tiny.save_base(tmp_path / "base")
    load = {
        "unet": lambda: load_unet(str(folder)),
        "vae": lambda: LatentEncoder.from_pretrained(str(folder)).vae,
        "text_encoder": lambda: BaseTextEncoder.from_pretrained(str(folder)).text_encoder,
    }[part]
    before = load().state_dict()
    for file in folder.rglob("*.safetensors"):
        file.rename(file.with_name(file.name.replace(".safetensors", ".fp16.safetensors")))
    for name, tensor in load().state_dict().items():
        assert torch.equal(tensor, before[name])
    (weights,) = (folder / part).glob("*.safetensors")
    weights.with_name(weights.name.replace("fp16", "ema")).write_bytes(weights.read_bytes())
    with pytest.raises(ValueError, match=f"{part}: expected plain weights or those of one variant, found ema, fp16"):
        load()


@pytest.mark.parametrize("value", [None, "64", [8, 16], 0])
def test_a_base_that_does_not_say_its_size_is_refused_by_the_field(tmp_path: Path, value: object) -> None:
    folder = tiny.save_base(tmp_path / "base")
    config = folder / "unet" / "config.json"
    assert latent_size(str(folder)) == json.loads(config.read_text())["sample_size"]
    config.write_text(json.dumps({**json.loads(config.read_text()), "sample_size": value}))
    with pytest.raises(ValueError, match=r"unet/config\.json: sample_size: expected its latents' side, found "):
        latent_size(str(folder))
    config.write_text(json.dumps({**json.loads(config.read_text()), "sample_size": [8, 8]}))
    assert latent_size(str(folder)) == 8


def test_a_base_that_predicts_something_else_is_refused_before_it_is_loaded(tmp_path: Path) -> None:
    folder = tiny.save_base(tmp_path / "base")
    config = folder / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "prediction_type": "flow"}))
    with pytest.raises(
        ValueError, match=r"scheduler/scheduler_config\.json: prediction_type: expected one of .*'flow'"
    ):
        schedule_config(str(folder))
