"""Bases that are single files: their models, features, pictures and fingerprints are those of a folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from infra.tracking.lineage import base_content
from llmdiff import LLMDiffPipeline
from llmdiff.diffusion.base import latent_size, load_noise_schedule, load_unet, schedule_config, unet_config
from llmdiff.diffusion.latents import LatentEncoder
from llmdiff.diffusion.single_file import CLIP
from llmdiff.diffusion.text import BaseTextEncoder
from llmdiff.diffusion.xl import PooledTextEncoder, XLTextEncoder, load_text_encoder
from llmdiff.model_files.base_folders import BASE_PARTS, XL_PARTS, check_base
from llmdiff.model_files.checkpoint_file import read_checkpoint
from llmdiff.model_files.prediction_type import prediction_type
from llmdiff.sampling import Sampling, draw
from pipelines.runtime.adapter_source import Source
from pipelines.runtime.eval_models import EvalModel, identity, model_of
from tests.adapter import tiny
from tests.adapter.single_files import altered, save_single, sd2_pipeline

CAPTIONS = ["a b", "", "a caption of more than twelve letters"]


PIPES = {
    "sd1": tiny.pipeline,
    "sd2": sd2_pipeline,
    "sdxl": lambda: tiny.xl_pipeline(force_zeros_for_empty_prompt=False),
}


@pytest.fixture(scope="module", params=PIPES)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Path]:
    """A family, and its base as a folder and as a single file."""
    root, pipe = tmp_path_factory.mktemp(request.param), PIPES[request.param]()
    pipe.save_pretrained(root / "folder", safe_serialization=True)
    return request.param, root / "folder", save_single(root / "file", pipe)


def test_a_single_file_has_the_models_of_its_folder(base: tuple[str, Path, Path]) -> None:
    family, folder, file = base
    assert read_checkpoint(file).family == family
    check_base(file, *(part for part in BASE_PARTS if family == "sdxl" or part not in XL_PARTS))
    expected, found = load_unet(str(folder)).state_dict(), load_unet(str(file)).state_dict()
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    for read in (unet_config, schedule_config, latent_size):
        assert told(read(str(folder))) == told(read(str(file)))
    assert load_unet(str(file), torch.bfloat16).dtype == torch.bfloat16


def told(config: Any) -> Any:
    """A configuration without what says where it came from."""
    return {key: value for key, value in config.items() if key[0] != "_"} if isinstance(config, dict) else config


def test_a_single_file_has_the_features_latents_and_fingerprints_of_its_folder(base: tuple[str, Path, Path]) -> None:
    family, folder, file = base
    for load in [load_text_encoder, *[PooledTextEncoder.from_pretrained] * (family == "sdxl")]:
        expected, found = load(str(folder)), load(str(file))
        assert isinstance(found, XLTextEncoder if family == "sdxl" else BaseTextEncoder)
        assert expected.describe() == found.describe()
        for one, other in zip(expected(CAPTIONS), found(CAPTIONS), strict=True):
            assert torch.equal(one, other)
    pictures = np.random.default_rng(0).integers(256, size=(1, 64, 64, 3), dtype=np.uint8)
    expected, found = (LatentEncoder.from_pretrained(str(each)) for each in (folder, file))
    assert expected.describe() == found.describe()
    assert torch.equal(expected(pictures), found(pictures))


def test_a_single_file_draws_the_pictures_of_its_folder(base: tuple[str, Path, Path]) -> None:
    _, folder, file = base
    expected = tiny.quiet(LLMDiffPipeline.from_pretrained(folder))
    found = tiny.quiet(LLMDiffPipeline.from_single_file(file))
    assert type(expected) is type(found)
    assert type(expected.scheduler) is type(found.scheduler)
    assert np.array_equal(tiny.draw(expected), tiny.draw(found))


def test_half_precision_is_read(tmp_path: Path) -> None:
    file = save_single(tmp_path / "half", tiny.pipeline(), torch.float16)
    whole = load_unet(tiny.save_base(tmp_path / "whole")).state_dict()
    found = load_unet(str(file), torch.float32).state_dict()
    assert all(torch.equal(found[name], whole[name].half().float()) for name in whole)
    pipe = LLMDiffPipeline.from_pretrained(file, dtype=torch.float16)
    assert {each.dtype for each in (pipe.unet, pipe.vae, pipe.text_encoder)} == {torch.float16}


def test_the_identity_of_a_single_file_is_of_it_and_of_its_configurations(tmp_path: Path) -> None:
    file = save_single(tmp_path / "a", tiny.pipeline())
    before = identity(str(file))
    copy = tmp_path / "b" / "a.safetensors"
    shutil.copytree(tmp_path / "a", copy.with_suffix(""))
    shutil.copyfile(file, copy)
    assert identity(str(copy)) == before
    (copy.with_suffix("") / "vae" / "config.json").write_text("{}")
    identity.cache_clear()
    assert identity(str(copy)) != before
    assert identity(str(file)) == before
    contents = [base_content(each) for each in (file, copy, tmp_path / "none")]
    assert contents[0] == contents[1] != contents[2] == ""


def test_an_evaluation_takes_a_single_file_as_adapters_base_and_as_baseline(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    file = save_single(tmp_path / "base", tiny.pipeline(**tiny.ONE_RESOLUTION))
    source = Source(adapter=str(folders["on-llm"]), llm=str(folders["llama"]), diffusion=str(file))
    models = [
        EvalModel(name="adapter", kind="adapter", spec=source.adapter, source=source),
        EvalModel(name="base", kind="base", spec=source.diffusion, source=source),
        EvalModel(name="plain", kind="pipeline", spec=str(file)),
    ]
    sampling = Sampling(steps=2)
    adapted, own, plain = (next(draw(model_of(each).load(sampling), ["a b"], [0], sampling)) for each in models)
    assert np.array_equal(own, plain)
    assert not np.array_equal(own, adapted)


@pytest.mark.parametrize("single", [True, False])
def test_a_baseline_is_compiled_and_laid_out_as_asked(
    single: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmdiff.sampling.check_compiler", lambda: None)  # nothing is drawn, so nothing is compiled
    pipe = tiny.pipeline(**tiny.ONE_RESOLUTION)
    spec = save_single(tmp_path / "base", pipe) if single else tmp_path / "folder"
    if not single:
        pipe.save_pretrained(spec)
    baseline = model_of(EvalModel(name="plain", kind="pipeline", spec=str(spec)))
    loaded = baseline.load(Sampling(torch_compile=True, channels_last=True))
    assert loaded.unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    assert loaded.unet._compiled_call_impl is not None


def marked(single: Path, folder: Path, *marks: str, metadata: dict[str, str] | None = None) -> Path:
    file = folder / single.name
    save_file({**load_file(single), **{mark: torch.zeros(0) for mark in marks}}, file, metadata=metadata)
    shutil.copytree(single.with_suffix(""), file.with_suffix(""))
    return file


def test_what_a_file_predicts_is_read_where_it_is_said(single: Path, tmp_path: Path) -> None:
    assert schedule_config(str(single))["prediction_type"] == "epsilon"
    file = marked(single, tmp_path, "v_pred", "ztsnr")
    assert (
        told(schedule_config(str(file))).items()
        >= {
            "prediction_type": "v_prediction",
            "rescale_betas_zero_snr": True,
            "beta_end": 0.012,
        }.items()
    )
    file.with_suffix(".yaml").write_text("model:\n  params:\n    parameterization: eps\n")
    assert load_noise_schedule(str(file)).config.prediction_type == "epsilon"
    file.with_suffix(".yaml").write_text("model: [")
    with pytest.raises(ValueError, match=r"base\.yaml: expected model: params: parameterization: v or eps, found "):
        schedule_config(str(file))
    own = file.with_suffix("") / "scheduler" / "scheduler_config.json"
    own.parent.mkdir()
    own.write_text(json.dumps({"_class_name": "DDIMScheduler", "prediction_type": "sample"}))
    assert schedule_config(str(file))["prediction_type"] == "sample"


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"modelspec.prediction_type": "v"}, "v_prediction"),
        ({"modelspec.architecture": "stable-diffusion-v2-768-v"}, "v_prediction"),
        ({"modelspec.architecture": "stable-diffusion-v2-512"}, "epsilon"),
        ({}, None),
    ],
)
def test_an_sd2_file_that_does_not_say_what_it_predicts_is_asked_for_it(
    tmp_path: Path, metadata: dict[str, str], expected: str | None
) -> None:
    file = save_single(tmp_path / "sd2", sd2_pipeline(), metadata=metadata, without=("scheduler",))
    assert prediction_type(read_checkpoint(file)) == expected
    if expected is not None:
        assert schedule_config(str(file))["prediction_type"] == expected
        return
    assert read_checkpoint(file).family == "sd2"
    with pytest.raises(ValueError, match=r"a file of Stable Diffusion 2.x does not say what it predicts: .*sd2\.yaml"):
        schedule_config(str(file))
    LatentEncoder.from_pretrained(str(file))  # which needs no schedule


# Its tokenizer


def test_a_tokenizer_beside_the_file_is_read_for_all_files_there(single: Path, tmp_path: Path) -> None:
    file = altered(single, tmp_path, lambda tensors: None)
    tokenizer = file.with_suffix("") / "tokenizer"
    shutil.move(tokenizer, tmp_path / "tokenizer")
    (tmp_path / "tokenizer" / "tokenizer_config.json").unlink()
    found, own = (BaseTextEncoder.from_pretrained(str(each)).tokenizer for each in (file, single))
    assert found("a red circle").input_ids == own("a red circle").input_ids
    assert (found.model_max_length, found.pad_token) == (77, "<|endoftext|>")


def test_the_vocabulary_comes_from_the_hubs_cache_with_the_familys_padding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = save_single(tmp_path / "xl", tiny.xl_pipeline(), without=("tokenizer", "tokenizer_2"))
    repository, own = tmp_path / "cache" / f"models--{CLIP.replace('/', '--')}", tiny.clip_tokenizer()
    for name, content in {
        "refs/main": "1",
        "snapshots/1/vocab.json": json.dumps(own.get_vocab()),
        "snapshots/1/merges.txt": "#version: 0.2\n",
    }.items():
        (repository / name).parent.mkdir(parents=True, exist_ok=True)
        (repository / name).write_text(content)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    tokenizers = XLTextEncoder.from_pretrained(str(file)).tokenizers
    assert [(each.pad_token, each.model_max_length) for each in tokenizers] == [("<|endoftext|>", 77), ("!", 77)]
    assert all(each("a red circle").input_ids == own("a red circle").input_ids for each in tokenizers)


def test_without_a_tokenizer_and_a_hub_the_error_says_what_to_give(
    single: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    file = altered(single, tmp_path, lambda tensors: None)
    shutil.rmtree(file.with_suffix("") / "tokenizer")
    with pytest.raises(ValueError) as raised:
        BaseTextEncoder.from_pretrained(str(file))
    expected = f"holds no tokenizer: expected vocab.json and merges.txt of {CLIP} in {tmp_path / 'tokenizer'}, or from"
    assert expected in str(raised.value)
    assert "\n" not in str(raised.value)
