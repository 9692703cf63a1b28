"""Pipelines that share a U-Net, and with it an adapter."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionPipeline

from llmdiff import load_adapter, unload_adapter
from tests.adapter.tiny import ADAPTERS, CONTROL, PROMPTS, Folders, draw, quiet, with_controlnet
from tests.examples import some


def picture(pipe: Any) -> dict[str, Any]:
    """What an image-to-image pipeline wants besides."""
    return {"image": torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1)), "strength": 1.0}


def test_a_pipeline_that_shares_the_unet_is_told_so(folders: Folders, plain: StableDiffusionPipeline) -> None:
    other = quiet(StableDiffusionImg2ImgPipeline(**plain.components, requires_safety_checker=False))
    before = draw(other, **picture(other))
    load_adapter(plain, folders["on-llm"], folders["llama"])
    for sharing in (other, quiet(StableDiffusionImg2ImgPipeline.from_pipe(plain))):
        with pytest.raises(ValueError, match="does not know of: call load_adapter"):
            draw(sharing, **picture(sharing))
    whole = draw(plain)
    unload_adapter(plain)
    assert np.array_equal(draw(other, **picture(other)), before)
    assert not np.array_equal(draw(plain), whole)


@pytest.mark.parametrize("adapter", some(ADAPTERS))
def test_pipelines_share_an_adapter(folders: Folders, plain: StableDiffusionPipeline, adapter: str) -> None:
    other = quiet(StableDiffusionImg2ImgPipeline(**plain.components, requires_safety_checker=False))
    before = draw(plain), draw(other, **picture(other))
    load_adapter(other, folders[adapter], folders["llama"])
    alone = draw(other, **picture(other))
    unload_adapter(other)
    loaded = load_adapter(plain, folders[adapter], folders["llama"])
    whole = draw(plain)
    assert load_adapter(other, plain) is loaded
    assert np.array_equal(draw(other, **picture(other)), alone)
    assert np.array_equal(draw(plain), whole)
    unload_adapter(other)
    assert np.array_equal(draw(plain), before[0])
    assert np.array_equal(draw(other, **picture(other)), before[1])


def test_an_adapter_is_shared_with_a_controlnets_pipeline(folders: Folders, plain: StableDiffusionPipeline) -> None:
    pipe = with_controlnet(plain)
    load_adapter(plain, folders["on-llm"], folders["llama"])
    whole = draw(plain)
    load_adapter(pipe, plain)
    draw(pipe, PROMPTS, **CONTROL)
    assert np.array_equal(draw(plain), whole)


def test_what_cannot_be_shared_is_refused(folders: Folders, plain: StableDiffusionPipeline) -> None:
    other = quiet(StableDiffusionPipeline.from_pretrained(folders["base"]))
    with pytest.raises(ValueError, match="has no adapter"):
        load_adapter(other, plain)
    load_adapter(plain, folders["on-llm"], folders["llama"])
    with pytest.raises(ValueError, match="different U-Nets"):
        load_adapter(other, plain)
    sharing = StableDiffusionPipeline(**plain.components, requires_safety_checker=False)
    with pytest.raises(ValueError, match="holds an adapter already"):
        load_adapter(sharing, folders["on-llm"], folders["llama"])
    assert np.isfinite(draw(plain)).all()


def test_a_pipeline_that_is_gone_is_no_bother(folders: Folders, plain: StableDiffusionPipeline) -> None:
    before = draw(plain)
    gc.freeze()  # what there is stays, and is not gone through
    other = StableDiffusionPipeline(**plain.components, requires_safety_checker=False)
    load_adapter(other, folders["on-llm"], folders["llama"])
    load_adapter(plain, other)
    del other
    gc.collect()
    unload_adapter(plain)
    assert np.array_equal(draw(plain), before)
