"""Bases of SDXL's shape: their text side, the pipeline on them, and bases that are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from PIL import Image

from infra.launch.hostfile import Topology
from llmdiff import LLMDiffPipeline
from llmdiff.diffusion.base import unet_config
from llmdiff.diffusion.xl import PooledTextEncoder, XLTextEncoder, load_text_encoder, text_encoder_of
from llmdiff.pipeline import LLMDiffXLPipeline
from llmdiff.sampling import Sampling
from pipelines.flows import evaluate
from pipelines.flows.generate import draw_into, take_out
from pipelines.flows.train import resolve_config
from pipelines.requests.generate import GenerateRequest
from pipelines.requests.train import TrainRequest
from pipelines.runtime.adapter_source import Source, load_source, resolve_adapter
from pipelines.runtime.eval_models import find_eval_models
from tests.adapter import tiny

PROMPTS = ["a red circle", "a caption of more than twelve letters"]
ZEROS = pytest.mark.parametrize("zeros", [True, False], ids=["zeros", "encoded"])


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_xl_base(tmp_path_factory.mktemp("xl"))


@ZEROS
def test_features_are_what_sdxl_reads_of_a_prompt_and_of_none(base: Path, tmp_path: Path, zeros: bool) -> None:
    if not zeros:
        base = tiny.save_xl_base(tmp_path, force_zeros_for_empty_prompt=False)
    text, pooled = load_text_encoder(str(base)), PooledTextEncoder.from_pretrained(str(base))
    given, without, given_pooled, without_pooled = tiny.xl_pipeline(force_zeros_for_empty_prompt=zeros).encode_prompt(
        PROMPTS
    )
    assert isinstance(text, XLTextEncoder)
    assert torch.equal(torch.stack(text([*PROMPTS, ""])), torch.cat([given, without[:1]]))
    assert torch.equal(torch.stack(pooled([*PROMPTS, ""]))[:, 0], torch.cat([given_pooled, without_pooled[:1]]))
    assert (text.hidden_size, pooled.hidden_size) == (given.shape[-1], given_pooled.shape[-1])
    assert (not without.any()) == (not without_pooled.any()) == zeros
    assert text.truncated == 2  # by either tokenizer
    described = [text.describe(), pooled.describe()]
    assert [(about["kind"], about["empty_caption"]) for about in described] == [
        ("base", "zeros" if zeros else "encoded"),
        ("pooled", "zeros" if zeros else "encoded"),
    ]
    assert json.loads(json.dumps(described)) == described
    assert text_encoder_of(StableDiffusionXLPipeline.from_pretrained(base)).describe() == described[0]


def test_the_pipeline_of_an_sdxl_base(base: Path, folders: dict[str, Path]) -> None:
    pipe = tiny.quiet(
        LLMDiffPipeline.from_pretrained(base, folders["on-xl"], folders["llama"], safety_checker=None, dtype=None)
    )
    assert isinstance(pipe, LLMDiffXLPipeline)
    plain = tiny.xl_pipeline()
    assert np.array_equal(tiny.draw(pipe, PROMPTS, adapter_scale=0.0), tiny.draw(plain, PROMPTS))
    assert not np.array_equal(tiny.draw(pipe, PROMPTS), tiny.draw(plain, PROMPTS))


def test_generate_and_evaluate_draw_with_an_sdxl_base(
    base: Path, folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As a task, called outside a flow, it would start a Prefect server.
    monkeypatch.setattr("pipelines.runtime.eval_models.resolve_adapter", resolve_adapter.fn)
    parts = {"adapter": folders["on-xl"], "llm": folders["llama"], "diffusion": base}
    source = Source(**{name: str(folder) for name, folder in parts.items()})
    request = GenerateRequest(prompts=PROMPTS[:1], steps=2, guidance=3.0, batch=1)
    pipe = load_source(source, True, request.sampling)
    (adapted,) = draw_into.fn(tmp_path / "adapter", pipe, source, request, adapted=True)
    take_out(pipe)
    (plain,) = draw_into.fn(tmp_path / "base", pipe, source, request, adapted=False)
    assert adapted.read_bytes() != plain.read_bytes()
    expected = (tiny.draw(tiny.xl_pipeline(), PROMPTS[0])[0] * 255).round().astype(np.uint8)
    assert np.array_equal(np.asarray(Image.open(plain)), expected)
    prompts, alike = evaluate.find_prompts.fn(None, [0], 1), Sampling(steps=1)
    eval_models = find_eval_models(source.adapter, ["base", f"plain={base}"], source.llm, source.diffusion)
    adapted, own, other = (evaluate.draw.fn(each, prompts, alike, tmp_path / each.name, 4) for each in eval_models)
    for files in zip(adapted, own, other, strict=True):
        with_adapter, as_loaded, as_diffusers_loads_it = (np.asarray(Image.open(file)) for file in files)
        assert np.array_equal(as_loaded, as_diffusers_loads_it)
        assert not np.array_equal(with_adapter, as_loaded)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no cross-attention": (
        {"down_block_types": ["DownBlock2D"], "up_block_types": ["UpBlock2D"], "mid_block_type": "UNetMidBlock2D"},
        "has no cross-attention",
    ),
    "another class": ({"_class_name": "UNetSpatioTemporalConditionModel"}, "is a UNetSpatioTemporalConditionModel"),
    "classes": ({"num_class_embeds": 10}, "has num_class_embeds 10, expected None"),
    "an image": ({"addition_embed_type": "image"}, "has addition_embed_type 'image', expected None or 'text_time'"),
    "variances": ({"out_channels": 8}, "has in_channels 4 and out_channels 8, expected the same"),
    "no pooled embedding": ({"projection_class_embeddings_input_dim": 48}, "reads no pooled embedding and 6 time ids"),
}


@pytest.mark.parametrize(("changes", "message"), REFUSED.values(), ids=REFUSED)
def test_a_base_that_cannot_be_taken_is_refused_by_its_configuration(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    """There are no weights that could be loaded."""
    base = tmp_path / "sd"
    (base / "unet").mkdir(parents=True)
    config = dict(tiny.unet(**tiny.SDXL_CHANGES).config)
    (base / "unet" / "config.json").write_text(json.dumps({**config, **changes}))
    with pytest.raises(ValueError, match=f"diffusion model .*sd: its U-Net {message}"):
        unet_config(str(base))
    with pytest.raises(ValueError, match=f"diffusion model .*sd: its U-Net {message}"):
        LLMDiffPipeline.from_pretrained(base)


def test_a_transformer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "transformer").mkdir()
    expected = "its unet: no config.json; found a transformer, which an adapter can't go into"
    with pytest.raises(FileNotFoundError, match=expected):
        LLMDiffPipeline.from_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match=expected):
        resolve_config.fn(TrainRequest(store="store", diffusion=str(tmp_path)), Topology(processes=1))
