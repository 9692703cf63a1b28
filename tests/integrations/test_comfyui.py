"""The nodes in ComfyUI's own sampling: what it draws is what the pipeline of diffusers draws."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import EulerDiscreteScheduler, StableDiffusionControlNetPipeline, UNet2DConditionModel

from integrations.comfyui.nodes import ApplyAdapter, EncodePrompt, LoadAdapter
from integrations.comfyui.prompts import Adapter
from llmdiff import load_adapter
from llmdiff.diffusion.text import BaseTextEncoder
from llmdiff.diffusion.xl import PooledTextEncoder, XLTextEncoder
from llmdiff.encoder import Encoder, EncoderConfig
from tests.adapter import tiny
from tests.encoder import tiny_models as models
from tests.integrations import comfyui

PROMPT, NEGATIVE = "a red circle to the left of a blue square", "a green triangle"
FOLDER = Path(__file__).parents[2] / "integrations" / "comfyui"
SD = {"block_out_channels": (32, 64), "attention_head_dim": 8, "norm_num_groups": 32}
"""ComfyUI has 32 groups and, for a Stable Diffusion 1, 8 heads."""
SD2 = {**SD, "block_out_channels": (64, 128), "attention_head_dim": (1, 2), "use_linear_projection": True}
XL = {
    **tiny.SDXL_CHANGES,
    "block_out_channels": (64, 128),
    "attention_head_dim": (1, 2),
    "norm_num_groups": 32,
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 6 * 256 + tiny.WIDTH,
}
KINDS: dict[str, dict[str, Any]] = {
    "llm": {},
    "sd2": {},
    "clip": {"base_context": "clip"},
    "new": {"paths": "new", "base_context": "clip"},
    "gates": {"band_gates": True, "refiner": 1, "standardise": True, "base_context": "clip"},
}


@pytest.fixture(scope="module")
def ui() -> SimpleNamespace:
    return comfyui.load()


@pytest.fixture(autouse=True)
def inference() -> Iterator[None]:
    """As ComfyUI runs its nodes."""
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llm")
    models.build("llama").save_pretrained(folder)
    models.tokenizer().save_pretrained(folder)
    return folder


def make_adapter(folder: Path, unet: UNet2DConditionModel, llm: Path, seed: int = 0, **settings: Any) -> Path:
    """An adapter of random weights, all of which count."""
    bands = 3 if settings.get("band_gates") else 1
    encoder = Encoder.from_pretrained(llm, EncoderConfig(dtype="float32", max_tokens=20, bands=bands), device="cpu")
    facts = {"encoder_description": encoder.describe(), "llm": "tiny-llama", "bands": bands}
    with torch.inference_mode(False):
        adapter = tiny.adapter(unet, facts, new_weight=0.5, **settings)
        torch.manual_seed(seed)
        for parameter in adapter.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
        return adapter.save(folder)


def in_diffusers(
    pipe: Any, folder: Path, llm: Path, noise: torch.Tensor, scale: float = 1.0, **options: Any
) -> list[Any]:
    """Latents after each of two Euler steps."""
    load_adapter(pipe, folder, str(llm)).scale = scale
    pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config, timestep_spacing="linspace")
    pipe.scheduler.set_timesteps(2)
    sigma = pipe.scheduler.sigmas[0]
    start = noise * (1 + sigma**2).sqrt() / pipe.scheduler.init_noise_sigma  # as ComfyUI starts
    seen = []

    def note(pipe: Any, step: int, timestep: int, tensors: dict[str, Any]) -> dict[str, Any]:
        seen.append(tensors["latents"].clone())
        return tensors

    options = {"negative_prompt": NEGATIVE, "output_type": "latent", "num_inference_steps": 2, **options}
    tiny.quiet(pipe)(PROMPT, latents=start, guidance_scale=3.0, callback_on_step_end=note, **options)
    return seen


def in_comfyui(
    ui: Any,
    model: Any,
    folder: Path,
    llm: Path,
    noise: torch.Tensor,
    clip: Any = (None, None),
    scale: float = 1.0,
    texts: tuple[str, str] = (PROMPT, NEGATIVE),
) -> list[Any]:
    """Latents after each of two Euler steps, by the three nodes."""
    (adapter,) = LoadAdapter().load(str(folder), str(llm))
    (positive,), (negative,) = (
        EncodePrompt().encode(adapter, text, features) for text, features in zip(texts, clip, strict=True)
    )
    (patched,) = ApplyAdapter().apply(model, adapter, scale)
    return comfyui.sample(ui.comfy, patched, noise, positive, negative)


def conditionings(pipe: Any) -> list[Any]:
    """What CLIP Text Encode gives of the two texts."""
    encoder = BaseTextEncoder(pipe.text_encoder, pipe.tokenizer)
    return [[[encoder([text])[0].unsqueeze(0), {"pooled_output": None}]] for text in (PROMPT, NEGATIVE)]


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


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_follow_a_model_that_computes_in_half_precision(
    ui: Any, parts: SimpleNamespace, dtype: torch.dtype
) -> None:
    adapter = parts.adapters[0]
    (whole,) = ApplyAdapter().apply(parts.model, adapter, 1.0)
    expected = draw(ui, parts, whole, adapter)
    half = comfyui.model_of(ui.comfy, parts.unet, dtype, dtype)
    (patched,) = ApplyAdapter().apply(half, adapter, 1.0)
    found = draw(ui, parts, patched, adapter)
    second = patched.model_options["transformer_options"]["patches"]["attn2_patch"][0]
    assert {parameter.dtype for parameter in second.layers.parameters()} == {dtype}
    assert 0 < (found - expected).abs().max() < 0.05 * expected.abs().max()


@pytest.fixture
def parts(ui: Any, llm: Path, tmp_path: Path) -> SimpleNamespace:
    """A MODEL, and two adapters for it."""
    unet = tiny.unet(**SD)
    adapters = [Adapter.load(make_adapter(tmp_path / f"{seed}", unet, llm, seed), str(llm)) for seed in (0, 1)]
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    return SimpleNamespace(unet=unet, model=comfyui.model_of(ui.comfy, unet), adapters=adapters, noise=noise)


def draw(ui: Any, parts: SimpleNamespace, model: Any, adapter: Adapter) -> torch.Tensor:
    last: torch.Tensor = comfyui.sample(
        ui.comfy, model, parts.noise, adapter.conditioning(PROMPT), adapter.conditioning(NEGATIVE)
    )[-1]
    return last


def test_clones_with_adapters_do_not_mix_and_the_model_stays_as_it_is(ui: Any, parts: SimpleNamespace) -> None:
    plain = [[torch.randn(1, 5, tiny.WIDTH), {}]]
    before = comfyui.sample(ui.comfy, parts.model, parts.noise, plain, plain)[-1]
    first, second = (ApplyAdapter().apply(parts.model, adapter, 1.0)[0] for adapter in parts.adapters)
    one = draw(ui, parts, first, parts.adapters[0])
    other = draw(ui, parts, second, parts.adapters[1])
    assert (one - other).abs().max() > 0.1
    clone = first.clone()  # as a LoRA's loader makes it
    patches = [model.model_options["transformer_options"]["patches"]["attn2_patch"] for model in (first, clone)]
    assert patches[0] is not patches[1]
    assert patches[0][0] is patches[1][0]
    assert torch.equal(draw(ui, parts, clone, parts.adapters[0]), one)
    assert torch.equal(draw(ui, parts, second, parts.adapters[1]), other)
    assert torch.equal(comfyui.sample(ui.comfy, parts.model, parts.noise, plain, plain)[-1], before)


def test_conditionings_are_combined_and_set_to_areas(ui: Any, parts: SimpleNamespace) -> None:
    adapter = parts.adapters[0]
    (model,) = ApplyAdapter().apply(parts.model, adapter, 1.0)
    positive, negative = adapter.conditioning(PROMPT), adapter.conditioning("")
    expected = comfyui.sample(ui.comfy, model, parts.noise, positive, negative)
    (area,) = ui.nodes.ConditioningSetArea().append(positive, 64, 64, 0, 0, 1.0)
    (both,) = ui.nodes.ConditioningCombine().combine(positive, area)
    found = comfyui.sample(ui.comfy, model, parts.noise, both, negative)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)


def test_prompts_with_and_without_share_a_batch_where_comfyui_repeats_the_shorter(
    ui: Any, parts: SimpleNamespace
) -> None:
    adapter, rows = parts.adapters[0], []
    (model,) = ApplyAdapter().apply(parts.model, adapter, 1.0)
    positive, negative = adapter.conditioning("a red circle"), adapter.conditioning("a")
    lengths = positive[0][0].shape[1], negative[0][0].shape[1]
    assert lengths == (4, 2)  # with EOS
    apart = [comfyui.sample(ui.comfy, model, parts.noise, c, c, cfg=1.0)[0] for c in (positive, negative)]

    def note(apply: Any, call: dict[str, Any]) -> torch.Tensor:
        rows.append(call["c"]["c_crossattn"].shape[:2])
        result: torch.Tensor = apply(call["input"], call["timestep"], **call["c"])
        return result

    model.set_model_unet_function_wrapper(note)
    both = comfyui.sample(ui.comfy, model, parts.noise, positive, negative, cfg=3.0)[0]
    assert rows[0] == (2, 4)
    torch.testing.assert_close(both, apart[1] + 3.0 * (apart[0] - apart[1]), rtol=0, atol=1e-4)


def test_wrong_connections_are_refused_by_name(ui: Any, parts: SimpleNamespace, llm: Path, tmp_path: Path) -> None:
    adapter, other = parts.adapters
    (model,) = ApplyAdapter().apply(parts.model, adapter, 1.0)
    own = adapter.conditioning(PROMPT)
    with pytest.raises(ValueError, match="negative: .* found one that no adapter made"):
        comfyui.sample(ui.comfy, model, parts.noise, own, [[torch.randn(1, 5, tiny.WIDTH), {}]])
    with pytest.raises(ValueError, match="positive: .* found another adapter's"):
        comfyui.sample(ui.comfy, model, parts.noise, other.conditioning(PROMPT), own)
    with pytest.raises(ValueError, match="holds an LLMDiff adapter already"):
        ApplyAdapter().apply(model, other, 1.0)
    with pytest.raises(ValueError, match="made for another U-Net"):
        ApplyAdapter().apply(comfyui.model_of(ui.comfy, tiny.unet(**XL)), adapter, 1.0)
    unet = tiny.unet(**SD)
    both = Adapter.load(make_adapter(tmp_path / "both", unet, llm, base_context="clip"), str(llm))
    (model,) = ApplyAdapter().apply(parts.model, both, 1.0)
    features = [[torch.randn(1, tiny.TOKENS, tiny.WIDTH), {}]]
    own = both.conditioning(PROMPT, features)
    concatenated = [[torch.cat([own[0][0]] * 2, 1), own[0][1]]]
    with pytest.raises(ValueError, match="positive: .* expected a context of 32 tokens, found 64"):
        comfyui.sample(ui.comfy, model, parts.noise, concatenated, own)
    parts.model.model.diffusion_model = torch.nn.Linear(1, 1)
    with pytest.raises(ValueError, match="expected a MODEL of Stable Diffusion 1, 2 or XL, found Linear"):
        ApplyAdapter().apply(parts.model, adapter, 1.0)


def test_comfyui_loads_the_folder_and_finds_the_workflow_whole(
    ui: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = tmp_path / "llmdiff"
    link.symlink_to(FOLDER)
    for names in ("NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"):
        monkeypatch.setattr(ui.nodes, names, dict(getattr(ui.nodes, names)))
    assert asyncio.run(ui.nodes.load_custom_node(str(link)))
    workflow = json.loads((FOLDER / "workflow.json").read_text())
    checkpoint = tmp_path / workflow["1"]["inputs"]["ckpt_name"]
    checkpoint.touch()
    import folder_paths

    monkeypatch.setitem(
        folder_paths.folder_names_and_paths, "checkpoints", ([str(tmp_path)], folder_paths.supported_pt_extensions)
    )
    valid, error, outputs, node_errors = asyncio.run(ui.execution.validate_prompt("test", workflow, None))
    assert (valid, error, node_errors) == (True, None, {})
    assert outputs
