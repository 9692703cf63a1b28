"""The nodes in ComfyUI's own sampling: what it draws is what the pipeline of diffusers draws."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionControlNetPipeline

from integrations.comfyui.nodes import ApplyAdapter
from integrations.comfyui.prompts import Adapter
from llmdiff.diffusion.xl import PooledTextEncoder, XLTextEncoder
from tests.adapter import tiny
from tests.integrations import comfyui
from tests.integrations.drawing import NEGATIVE, PROMPT, SD, XL, conditionings, in_comfyui, in_diffusers, make_adapter

pytestmark = pytest.mark.usefixtures("inference")

SD2 = {**SD, "block_out_channels": (64, 128), "attention_head_dim": (1, 2), "use_linear_projection": True}
KINDS: dict[str, dict[str, Any]] = {
    "llm": {},
    "sd2": {},
    "clip": {"base_context": "clip"},
    "new": {"paths": "new", "base_context": "clip"},
    "gates": {"band_gates": True, "refiner": 1, "standardise": True, "base_context": "clip"},
}


@pytest.mark.parametrize(("kind", "scale"), [*((kind, 1.0) for kind in KINDS), ("clip", 0.3), ("llm", 0.0)])
def test_latents_are_those_of_the_pipeline_after_each_step(
    ui: Any, llm: Path, tmp_path: Path, kind: str, scale: float
) -> None:
    unet = tiny.unet(**(SD2 if kind == "sd2" else SD))
    folder = make_adapter(tmp_path / "adapter", unet, llm, **KINDS[kind])
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    model, pipe = comfyui.model_of(ui.comfy, unet), tiny.pipeline()
    pipe.register_modules(unet=unet)
    clip = conditionings(pipe) if KINDS[kind] else (None, None)
    found = in_comfyui(ui, model, folder, llm, noise, clip, scale)
    expected = in_diffusers(pipe, folder, llm, noise, scale, num_images_per_prompt=2)
    for after, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-3, msg=f"step {after}")


@pytest.mark.parametrize("zeroed", [False, True], ids=["encoded", "zeroed"])
def test_latents_of_sdxl_with_its_pooled_embedding_and_sizes(ui: Any, llm: Path, tmp_path: Path, zeroed: bool) -> None:
    unet, pipe = tiny.unet(**XL), tiny.xl_pipeline()
    pipe.register_modules(unet=unet)
    folder = make_adapter(tmp_path / "adapter", unet, llm, base_context="clip")
    sizes = {"width": 64, "height": 64, "crop_w": 0, "crop_h": 0, "target_width": 64, "target_height": 64}
    text, pooled = XLTextEncoder.of(pipe), PooledTextEncoder.of(pipe)
    texts = PROMPT, "" if zeroed else NEGATIVE
    clip = [[[text([words])[0][None], {"pooled_output": pooled([words])[0], **sizes}]] for words in texts]
    if zeroed:
        clip[1][0][0] = torch.ones_like(clip[1][0][0])
        (clip[1],) = ui.nodes.ConditioningZeroOut().zero_out(clip[1])
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    found = in_comfyui(ui, comfyui.model_of(ui.comfy, unet), folder, llm, noise, clip, texts=texts)
    expected = in_diffusers(pipe, folder, llm, noise, negative_prompt=None if zeroed else NEGATIVE)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)


def test_weights_follow_a_model_that_is_stored_in_half_and_computed_in_float32(
    ui: Any, llm: Path, tmp_path: Path
) -> None:
    unet, pipe = tiny.unet(**SD), tiny.pipeline()
    folder = make_adapter(tmp_path / "adapter", unet, llm)
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    found = in_comfyui(ui, comfyui.model_of(ui.comfy, unet, torch.float16), folder, llm, noise)
    pipe.register_modules(unet=unet.half().float())
    torch.testing.assert_close(found, in_diffusers(pipe, folder, llm, noise), rtol=0, atol=1e-3)


def test_a_controlnet_reads_the_text_of_the_base(
    ui: Any, llm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unet, parts = tiny.unet(**SD), tiny.pipeline()
    net = tiny.controlnet(unet, (16, 32, 96, 256))
    parts.register_modules(unet=unet)
    folder = make_adapter(tmp_path / "adapter", unet, llm)
    adapter = Adapter.load(folder, str(llm))
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    hint = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(1))
    # ComfyUI tells what a file is by the sizes that it knows.
    config = {**comfyui.unet_config(unet), "num_heads": SD["attention_head_dim"]}
    monkeypatch.setattr(ui.comfy.model_detection, "unet_config_from_diffusers_unet", lambda weights: config)
    control = ui.comfy.controlnet.load_controlnet_state_dict(dict(net.state_dict()))
    texts = zip((PROMPT, NEGATIVE), conditionings(parts), strict=True)
    given = [adapter.conditioning(text, features) for text, features in texts]
    (patched,) = ApplyAdapter().apply(comfyui.model_of(ui.comfy, unet), adapter, 1.0)
    without = comfyui.sample(ui.comfy, patched, noise, *given)
    given = ui.nodes.ControlNetApplyAdvanced().apply_controlnet(*given, control, hint, 1.0, 0.0, 1.0)
    found = comfyui.sample(ui.comfy, patched, noise, *given)
    pipe = StableDiffusionControlNetPipeline(**parts.components, controlnet=net, requires_safety_checker=False)
    torch.testing.assert_close(
        found, in_diffusers(pipe, folder, llm, noise, image=hint.movedim(-1, 1)), rtol=0, atol=1e-3
    )
    assert (found[0] - without[0]).abs().max() > 0.1


def test_a_lora_and_attention_of_another_node_work_beside_it(ui: Any, llm: Path, tmp_path: Path) -> None:
    from comfy.ldm.modules.attention import optimized_attention

    def usual(query: Any, key: Any, value: Any, options: dict[str, Any]) -> Any:
        calls.append(options["block"])
        return optimized_attention(query, key, value, options["n_heads"])

    calls: list[Any] = []
    unet, pipe = tiny.unet(**SD), tiny.pipeline()
    folder = make_adapter(tmp_path / "adapter", unet, llm)
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    model = comfyui.model_of(ui.comfy, unet)
    weight = unet.mid_block.attentions[0].transformer_blocks[0].attn2.to_k.weight
    change = torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    key = "diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_k.weight"
    assert model.add_patches({key: ("diff", (change,))}, 0.5) == [key]
    model.set_model_attn2_replace(usual, "middle", 0)
    found = in_comfyui(ui, model, folder, llm, noise)
    weight.add_(0.5 * change)
    pipe.register_modules(unet=unet)
    torch.testing.assert_close(found, in_diffusers(pipe, folder, llm, noise), rtol=0, atol=1e-3)
    assert set(calls) == {("middle", 0)}
