"""Where adapter and LLM are: the pipeline's dtype and device, and offloading."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from torch import nn

from llmdiff import LLMDiffPipeline, load_adapter, unload_adapter
from llmdiff.encoder import Encoder, EncoderConfig
from tests.adapter import tiny
from tests.adapter.tiny import ADAPTERS, PROMPTS, Folders, draw, quiet
from tests.examples import some


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_the_adapter_follows_the_pipelines_dtype(folders: Folders, adapter: str) -> None:
    pipe = quiet(LLMDiffPipeline.from_pretrained(folders["base"], folders[adapter], folders["llama"]))
    pipe.to(torch.bfloat16)
    assert np.isfinite(draw(pipe, PROMPTS)).all()
    assert {parameter.dtype for parameter in pipe.llm_adapter.parameters()} == {torch.bfloat16}


def test_llm_and_adapter_follow_the_pipelines_device(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = LLMDiffPipeline.from_pretrained(folders["base"], folders["on-llm"], folders["llama"])
    loaded = pipe.encode_prompt.loaded
    encoder = loaded.encoder

    def encode(captions: list[str]) -> list[torch.Tensor]:
        assert encoder.llm.backbone.get_input_embeddings().weight.is_meta
        return [torch.zeros(3, tiny.HIDDEN) for _ in captions]

    monkeypatch.setattr(loaded, "encoder", encode)
    monkeypatch.setattr(LLMDiffPipeline, "_execution_device", torch.device("meta"))
    given, without = pipe.encode_prompt(PROMPTS, None, 1, True)
    assert given.is_meta
    assert without.is_meta
    assert all(parameter.is_meta for parameter in pipe.llm_adapter.parameters())


def test_an_llm_given_ready_made_stays_where_it_is(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = Encoder.from_pretrained(folders["llama"], EncoderConfig(dtype="float32", max_tokens=20))
    pipe = LLMDiffPipeline.from_pretrained(folders["base"], folders["on-llm"], encoder)
    monkeypatch.setattr(LLMDiffPipeline, "_execution_device", torch.device("meta"))
    assert pipe.encode_prompt(PROMPTS, None, 1, True)[0].is_meta
    assert encoder.llm.device.type == "cpu"


def test_contexts_that_are_given_need_no_llm(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = quiet(LLMDiffPipeline.from_pretrained(folders["base"], folders["on-llm"], folders["llama"]))
    given, without = pipe.encode_prompt(PROMPTS, pipe.device, 1, True)
    (llm,) = pipe.encode_prompt.loaded.following
    monkeypatch.setattr(llm, "to", lambda device: pytest.fail("the LLM was moved"))
    draw(pipe, None, prompt_embeds=given, negative_prompt_embeds=without)
    draw(pipe, None, prompt_embeds=given, guidance_scale=1.0)


def offload(pipe: Any, how: str) -> None:
    """Accelerate's hooks, with the CPU as the device that models are fetched to."""
    getattr(pipe, how)(device="cpu")
    for part in pipe.components.values():
        for module in part.modules() if isinstance(part, nn.Module) else ():
            if getattr(getattr(module, "_hf_hook", None), "execution_device", None) is not None:
                module._hf_hook.execution_device = torch.device("cpu")  # not cpu:0, where accelerate would copy


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("how", ["enable_model_cpu_offload", "enable_sequential_cpu_offload"])
def test_cpu_offload(folders: Folders, adapter: str, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = quiet(LLMDiffPipeline.from_pretrained(folders["base"], folders[adapter], folders["llama"]))
    whole, moves = draw(pipe, PROMPTS), list[str]()
    offload(pipe, how)
    for module in pipe.encode_prompt.loaded.following:
        monkeypatch.setattr(module, "to", lambda device: moves.append(str(device)))
    np.testing.assert_array_equal(draw(pipe, PROMPTS), whole)
    assert len(moves) == (0 if adapter == "control" else 2)  # there and back
    if how == "enable_sequential_cpu_offload":
        assert pipe.unet.conv_in.weight.is_meta
    unload_adapter(pipe)
    plain = quiet(StableDiffusionPipeline.from_pretrained(folders["base"]))
    np.testing.assert_array_equal(draw(pipe, PROMPTS), draw(plain, PROMPTS))


@pytest.mark.parametrize("adapter", some(["on-llm", "on-both"]))
def test_loading_after_sequential_offload(folders: Folders, plain: StableDiffusionPipeline, adapter: str) -> None:
    whole = draw(quiet(LLMDiffPipeline.from_pretrained(folders["base"], folders[adapter], folders["llama"])), PROMPTS)
    offload(plain, "enable_sequential_cpu_offload")
    load_adapter(plain, folders[adapter], folders["llama"])
    np.testing.assert_array_equal(draw(plain, PROMPTS), whole)


def test_the_control_is_loaded_before_sequential_offload(folders: Folders, plain: StableDiffusionPipeline) -> None:
    plain.enable_sequential_cpu_offload(device="cpu")
    with pytest.raises(ValueError, match="offloaded already: load the adapter before"):
        load_adapter(plain, folders["control"])
