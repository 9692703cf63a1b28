"""The adapter beside what else diffusers puts into a pipeline, and in pipelines that share a U-Net."""

from __future__ import annotations

import gc
import json
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import (
    StableDiffusionControlNetPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
)
from diffusers.models.attention_processor import AttnProcessor2_0
from peft import LoraConfig
from safetensors.torch import load_file
from torch import nn

from llmdiff import LLMDiffPipeline, load_adapter, unload_adapter
from llmdiff.adapter.prompts import PromptEncoder
from llmdiff.encoder import Encoder, EncoderConfig
from llmdiff.sampling import load_pipeline
from tests.adapter import tiny
from tests.adapter.tiny import draw, quiet
from tests.graphs import Graphs

PROMPTS = ["a red circle", "a small blue square to the left of the large green triangle"]
ADAPTERS = ["on-llm", "on-both", "control"]
Folders = dict[str, Path]


@pytest.fixture
def plain(folders: Folders) -> StableDiffusionPipeline:
    return quiet(StableDiffusionPipeline.from_pretrained(folders["base"]))


def set_scale(pipe: Any, scale: float) -> None:
    pipe.llm_adapter.scale = scale


def picture(pipe: Any) -> dict[str, Any]:
    """What an image-to-image pipeline wants besides."""
    return {"image": torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1)), "strength": 1.0}


# ControlNet


def with_controlnet(plain: StableDiffusionPipeline) -> StableDiffusionControlNetPipeline:
    net = tiny.controlnet(plain.unet)
    return quiet(StableDiffusionControlNetPipeline(**plain.components, controlnet=net, requires_safety_checker=False))


CONTROL = {"image": torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))}


@pytest.mark.parametrize("options", [{}, {"guess_mode": True}, {"guidance_scale": 1.0}, {"num_images_per_prompt": 2}])
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


# Processors


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


# Pipelines that share a U-Net


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


@pytest.mark.parametrize("adapter", ADAPTERS)
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
    other = StableDiffusionPipeline(**plain.components, requires_safety_checker=False)
    load_adapter(other, folders["on-llm"], folders["llama"])
    load_adapter(plain, other)
    del other
    gc.collect()
    unload_adapter(plain)
    assert np.array_equal(draw(plain), before)


# Where things are


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


@pytest.mark.parametrize("adapter", ["on-llm", "on-both"])
def test_loading_after_sequential_offload(folders: Folders, plain: StableDiffusionPipeline, adapter: str) -> None:
    whole = draw(quiet(LLMDiffPipeline.from_pretrained(folders["base"], folders[adapter], folders["llama"])), PROMPTS)
    offload(plain, "enable_sequential_cpu_offload")
    load_adapter(plain, folders[adapter], folders["llama"])
    np.testing.assert_array_equal(draw(plain, PROMPTS), whole)


def test_the_control_is_loaded_before_sequential_offload(folders: Folders, plain: StableDiffusionPipeline) -> None:
    plain.enable_sequential_cpu_offload(device="cpu")
    with pytest.raises(ValueError, match="offloaded already: load the adapter before"):
        load_adapter(plain, folders["control"])


# LoRA, and the U-Net's own files


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


# torch.compile


@pytest.fixture(scope="module")
def shallow(folders: Folders, tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """A base of one resolution and its adapters: a third of the modules to trace, and every kind of them."""
    root = tmp_path_factory.mktemp("shallow")
    pipe, unet = tiny.pipeline(), tiny.unet(**tiny.SHALLOW)
    pipe.register_modules(unet=unet)
    pipe.save_pretrained(root / "base")
    about = json.loads((folders["on-llm"] / "adapter_config.json").read_text())
    facts = {name: about[name] for name in ("encoder_description", "encoder_fingerprint", "llm")}
    tiny.adapter(unet, facts, new_weight=0.5, copy_original=False).save(root / "on-llm")
    tiny.adapter(unet, facts, new_weight=0.5, base_context="clip").save(root / "on-both")
    return {path.name: path for path in root.iterdir()}


@pytest.mark.xdist_group("torch.compile")
@pytest.mark.parametrize(("adapter", "order"), [("on-both", "load, compile"), ("on-both", "compile, load")])
def test_compiles_without_a_graph_break(
    folders: Folders, shallow: Folders, graphs: Graphs, adapter: str, order: str
) -> None:
    options = {"num_inference_steps": 1}
    whole = draw(quiet(LLMDiffPipeline.from_pretrained(shallow["base"], shallow[adapter], folders["llama"])), **options)
    pipe = quiet(StableDiffusionPipeline.from_pretrained(shallow["base"]))
    for step in order.split(", "):
        if step == "load":
            load_adapter(pipe, shallow[adapter], folders["llama"])
        else:
            pipe.unet = torch.compile(pipe.unet, fullgraph=True)
    np.testing.assert_allclose(draw(pipe, **options), whole, atol=1e-5)


@pytest.mark.xdist_group("torch.compile")
def test_compiled_in_place_it_draws_the_same_and_makes_no_graph_for_each_length(
    folders: Folders, shallow: Folders, graphs: Graphs
) -> None:
    models = shallow["base"], shallow["on-llm"], folders["llama"]
    plain, pipe = load_pipeline(*map(str, models)), load_pipeline(*map(str, models), torch_compile=True)
    assert list(pipe.unet.state_dict()) == list(plain.unet.state_dict())
    for prompt in ("a circle", *PROMPTS):
        np.testing.assert_allclose(draw(pipe, prompt), draw(plain, prompt), atol=1e-5)
    assert (graphs.made, graphs.breaks) == (2, [])  # of the U-Net, and of the adapter's hook before it


# Schedulers

SCHEDULERS = [
    ("DDIMScheduler", {}),
    ("DDPMScheduler", {}),
    ("DEISMultistepScheduler", {}),
    ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++"}),
    ("DPMSolverSinglestepScheduler", {}),
    ("EulerDiscreteScheduler", {}),
    ("EulerAncestralDiscreteScheduler", {}),
    ("HeunDiscreteScheduler", {}),
    ("KDPM2DiscreteScheduler", {}),
    ("LCMScheduler", {}),
    ("LMSDiscreteScheduler", {}),
    ("PNDMScheduler", {}),
    ("TCDScheduler", {}),
    ("UniPCMultistepScheduler", {}),
]


@pytest.fixture(scope="module")
def pair(folders: Folders) -> tuple[Any, Any]:
    """A base, and the same with an adapter."""
    return (
        quiet(StableDiffusionPipeline.from_pretrained(folders["base"])),
        quiet(LLMDiffPipeline.from_pretrained(folders["base"], folders["on-both"], folders["llama"])),
    )


@pytest.mark.parametrize(("name", "options"), SCHEDULERS)
def test_every_scheduler(pair: tuple[Any, Any], name: str, options: dict[str, Any]) -> None:
    base, pipe = pair
    for one in pair:
        one.scheduler = getattr(diffusers, name).from_config(tiny.schedule().config, **options)
    drawn = draw(pipe, PROMPTS, num_inference_steps=4)
    assert np.isfinite(drawn).all()
    expected = draw(base, PROMPTS, num_inference_steps=4)
    assert not np.array_equal(drawn, expected)
    assert np.array_equal(draw(pipe, PROMPTS, num_inference_steps=4, adapter_scale=0.0), expected)


# SDXL


@pytest.mark.parametrize("adapter", ["on-xl", "on-xl-llm"])
def test_in_sdxl(folders: Folders, adapter: str) -> None:
    pipe = tiny.xl_pipeline()
    before = draw(pipe, PROMPTS)
    load_adapter(pipe, folders[adapter], folders["llama"])
    whole = draw(pipe, PROMPTS, negative_prompt="a square", num_images_per_prompt=2)
    assert whole.shape == (4, 64, 64, 3)
    assert not np.array_equal(draw(pipe, PROMPTS), before)
    assert not np.array_equal(
        draw(pipe, PROMPTS, prompt_2=["a square", "a"]), draw(pipe, PROMPTS)
    )  # pooled, the base's own
    given = pipe.encode_prompt(PROMPTS)
    names = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
    np.testing.assert_allclose(draw(pipe, None, **dict(zip(names, given, strict=True))), draw(pipe, PROMPTS), atol=1e-5)
    unload_adapter(pipe)
    assert np.array_equal(draw(pipe, PROMPTS), before)


@pytest.mark.parametrize("force_zeros", [True, False])
@pytest.mark.parametrize("options", [{}, {"negative_prompt": ""}, {"negative_prompt": "a square"}], ids=str)
def test_at_scale_0_sdxl_draws_as_without_the_adapter(
    folders: Folders, force_zeros: bool, options: dict[str, str]
) -> None:
    pipe = tiny.xl_pipeline(force_zeros_for_empty_prompt=force_zeros)
    before = draw(pipe, PROMPTS, **{name: [value] * len(PROMPTS) for name, value in options.items()})
    load_adapter(pipe, folders["on-xl"], folders["llama"])
    set_scale(pipe, 0.0)
    assert np.array_equal(draw(pipe, PROMPTS, **options), before)


def test_another_family_is_refused(folders: Folders) -> None:
    class Other(diffusers.DiffusionPipeline):
        def __init__(self, transformer: nn.Module) -> None:
            super().__init__()
            self.register_modules(transformer=transformer)

    with pytest.raises(ValueError, match="expected a pipeline with a U-Net .* found Other"):
        load_adapter(Other(tiny.vae()), folders["on-llm"], folders["llama"])


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
