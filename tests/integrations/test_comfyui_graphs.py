"""The nodes among others of a graph: clones, combined conditionings, wrong connections, the shipped workflow."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from integrations.comfyui.nodes import ApplyAdapter
from integrations.comfyui.prompts import Adapter
from tests.adapter import tiny
from tests.integrations import comfyui
from tests.integrations.drawing import NEGATIVE, PROMPT, SD, XL, make_adapter

pytestmark = pytest.mark.usefixtures("inference")

FOLDER = Path(__file__).parents[2] / "integrations" / "comfyui"


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
