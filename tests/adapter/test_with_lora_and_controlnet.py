"""The adapter beside what else diffusers puts into a pipeline: ControlNets, processors, LoRA, IP-Adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from diffusers.models.attention_processor import AttnProcessor2_0
from peft import LoraConfig
from safetensors.torch import load_file

from llmdiff import load_adapter, unload_adapter
from llmdiff.adapter.prompts import PromptEncoder
from tests.adapter import tiny
from tests.adapter.tiny import ADAPTERS, CONTROL, PROMPTS, Folders, draw, quiet, set_scale, with_controlnet
from tests.examples import some


@pytest.mark.parametrize(
    "options", some([{}, {"guess_mode": True}, {"guidance_scale": 1.0}, {"num_images_per_prompt": 2}])
)
def test_at_scale_0_a_controlnet_draws_as_without_the_adapter(
    folders: Folders, plain: StableDiffusionPipeline, options: dict[str, Any]
) -> None:
    pipe = with_controlnet(plain)
    before = draw(pipe, PROMPTS, **CONTROL, **options)
    load_adapter(pipe, folders["on-both"], folders["llama"])
    assert not np.array_equal(draw(pipe, PROMPTS, **CONTROL, **options), before)
    set_scale(pipe, 0.0)
    assert np.array_equal(draw(pipe, PROMPTS, **CONTROL, **options), before)
    unload_adapter(pipe)
    assert np.array_equal(draw(pipe, PROMPTS, **CONTROL, **options), before)
    assert not pipe.controlnet._forward_pre_hooks


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_a_controlnet_reads_the_bases_own_text(folders: Folders, plain: StableDiffusionPipeline, adapter: str) -> None:
    pipe, heard = with_controlnet(plain), []
    forward = pipe.controlnet.forward

    def listen(*args: Any, **kwargs: Any) -> Any:
        heard.append(kwargs["encoder_hidden_states"])
        return forward(*args, **kwargs)

    pipe.controlnet.forward = listen
    draw(pipe, PROMPTS, **CONTROL)
    load_adapter(pipe, folders[adapter], folders["llama"])
    draw(pipe, PROMPTS, **CONTROL)
    before, _, after, _ = heard
    assert torch.equal(before, after)


def test_a_controlnet_that_adds_nothing_changes_nothing(folders: Folders, plain: StableDiffusionPipeline) -> None:
    load_adapter(plain, folders["on-llm"], folders["llama"])
    expected = draw(plain, PROMPTS)
    unload_adapter(plain)
    pipe = with_controlnet(plain)
    load_adapter(pipe, folders["on-llm"], folders["llama"])
    np.testing.assert_allclose(draw(pipe, PROMPTS, **CONTROL, controlnet_conditioning_scale=0.0), expected, atol=1e-5)


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("first", [True, False])
def test_attention_slicing_leaves_the_adapter_in(folders: Folders, adapter: str, first: bool) -> None:
    pipe = quiet(StableDiffusionPipeline.from_pretrained(folders["base"]))
    before = draw(pipe, PROMPTS)
    if first:
        pipe.enable_attention_slicing(1)
    load_adapter(pipe, folders[adapter], folders["llama"])
    whole = draw(pipe, PROMPTS)
    pipe.enable_attention_slicing(1)
    np.testing.assert_allclose(draw(pipe, PROMPTS), whole, atol=1e-5)
    pipe.disable_attention_slicing()
    np.testing.assert_allclose(draw(pipe, PROMPTS), whole, atol=1e-5)
    unload_adapter(pipe)
    assert np.array_equal(draw(pipe, PROMPTS), before)


def test_processors_set_meanwhile_stay(folders: Folders, plain: StableDiffusionPipeline) -> None:
    load_adapter(plain, folders["on-llm"], folders["llama"])
    whole, ours = draw(plain), plain.unet.attn_processors
    plain.unet.set_attn_processor(AttnProcessor2_0())
    np.testing.assert_array_equal(draw(plain), whole)
    plain.unet.set_attn_processor(ours)
    np.testing.assert_array_equal(draw(plain), whole)
    plain.enable_attention_slicing(1)
    unload_adapter(plain)
    assert {type(p).__name__ for p in plain.unet.attn_processors.values()} == {"SlicedAttnProcessor"}


def add_lora(pipe: Any) -> None:
    torch.manual_seed(6)
    pipe.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_k"], init_lora_weights=False), "style")


def test_a_lora_beside(folders: Folders, plain: StableDiffusionPipeline) -> None:
    base = draw(plain)
    load_adapter(plain, folders["on-both"], folders["llama"])
    adapted = draw(plain)
    unload_adapter(plain)
    add_lora(plain)
    lora = draw(plain)
    load_adapter(plain, folders["on-both"], folders["llama"])
    both = draw(plain)
    set_scale(plain, 0.0)
    assert np.array_equal(draw(plain), lora)
    set_scale(plain, 1.0)
    plain.unet.delete_adapters("style")
    assert np.array_equal(draw(plain), adapted)
    add_lora(plain)  # the other way round
    assert np.array_equal(draw(plain), both)
    unload_adapter(plain)
    assert np.array_equal(draw(plain), lora)
    plain.unet.delete_adapters("style")
    assert np.array_equal(draw(plain), base)
    assert len({pictures.tobytes() for pictures in (base, adapted, lora, both)}) == 4


def test_the_adapter_is_no_part_of_the_unets_modules_and_files(
    folders: Folders, plain: StableDiffusionPipeline, tmp_path: Path
) -> None:
    names = list(plain.unet.state_dict()), [name for name, _ in plain.unet.named_modules()]
    before = draw(plain)
    load_adapter(plain, folders["on-llm"], folders["llama"])
    assert (list(plain.unet.state_dict()), [name for name, _ in plain.unet.named_modules()]) == names
    plain.save_pretrained(tmp_path)
    assert sorted(load_file(tmp_path / "unet" / "diffusion_pytorch_model.safetensors")) == sorted(names[0])
    np.testing.assert_array_equal(draw(quiet(StableDiffusionPipeline.from_pretrained(tmp_path))), before)


def test_an_ip_adapter_beside_is_refused(folders: Folders, plain: StableDiffusionPipeline) -> None:
    load_adapter(plain, folders["on-llm"], folders["llama"])
    assert isinstance(plain.encode_prompt, PromptEncoder)
    attn = plain.unet.get_submodule("mid_block.attentions.0.transformer_blocks.0.attn2")
    with pytest.raises(ValueError, match="an IP-Adapter can't share"):
        attn(torch.zeros(1, 16, attn.query_dim), encoder_hidden_states=(torch.zeros(1, 3, tiny.WIDTH), []))
    unet = tiny.unet()
    unet.register_to_config(encoder_hid_dim_type="ip_image_proj")  # as loading an IP-Adapter does
    with pytest.raises(ValueError, match="encoder_hid_dim_type 'ip_image_proj', expected None"):
        tiny.adapter(unet)
