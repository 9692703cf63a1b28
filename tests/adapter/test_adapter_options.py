"""Gates over bands, the refiner and standardised inputs: without effect where they are off, and what they do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from llmdiff import LLMDiffPipeline
from llmdiff.adapter import AdapterConfig, AdapterSettings, LLMAdapter
from llmdiff.adapter.prompts import same_length
from llmdiff.encoder import Encoder, EncoderConfig
from pipelines.studies.parameter_counts import parameters
from tests.adapter import tiny
from tests.adapter.tiny import draw, quiet

BANDS = 3
ALL: dict[str, Any] = {"band_gates": True, "refiner": 2, "standardise": True}
OFF: dict[str, Any] = {"band_gates": False, "refiner": 0, "standardise": False}


def banded(batch: int = 2, tokens: int = 6) -> Tensor:
    """Encodings whose bands differ in size, and of which one channel rules."""
    generator = torch.Generator().manual_seed(8)
    encodings = torch.randn(batch, BANDS, tokens, tiny.HIDDEN, generator=generator)
    encodings *= torch.tensor([1.0, 10.0, 100.0])[:, None, None]
    encodings[..., 7] += 3e4
    return encodings


@torch.no_grad()
def disturb(adapter: LLMAdapter) -> None:
    """Gives every weight and statistic another value, so that nothing is without effect."""
    generator = torch.Generator().manual_seed(9)
    for tensor in adapter.parameters():
        tensor += 0.1 * torch.randn(tensor.shape, generator=generator)
    if adapter.phi.standardisation is not None:
        shape = adapter.phi.standardisation.mean.shape
        mean, std = (torch.rand(shape, generator=generator) for _ in range(2))
        mean[:, 7] += 3e4
        adapter.phi.standardisation.set(mean, std + 0.5)


def predicted(adapter: LLMAdapter, unet: Any, encodings: Tensor, **options: Any) -> Tensor:
    x = tiny.inputs()
    adapter.install(unet)
    found = tiny.predict(unet, x, adapter.context(encodings, x["mask"], **options))
    adapter.uninstall()
    return found


def test_switched_off_they_leave_parameters_draws_numbers_and_files_alone(tmp_path: Path) -> None:
    plain, off = (tiny.adapter(tiny.unet(), {"bands": BANDS}, copy_original=False, **some) for some in ({}, OFF))
    drawn = torch.random.get_rng_state()
    assert list(plain.state()) == list(off.state())
    assert all(torch.equal(tensor, off.state()[name]) for name, tensor in plain.state().items())
    tiny.adapter(tiny.unet(), {"bands": BANDS}, copy_original=False)
    assert torch.equal(torch.random.get_rng_state(), drawn)
    assert torch.equal(predicted(plain, tiny.unet(), banded()), predicted(off, tiny.unet(), banded()))
    first, other = (adapter.save(tmp_path / name) for adapter, name in ((plain, "plain"), (off, "off")))
    for path in first.iterdir():
        assert path.read_bytes() == (other / path.name).read_bytes()


def test_settings_are_written_down_where_they_are_set_and_not_where_they_are_neutral() -> None:
    before = ["base_context", "paths", "original_weight", "new_weight", "learn_weights", "copy_original", "learn_bands"]
    assert list(AdapterSettings(**OFF).model_dump()) == before
    assert list(json.loads(AdapterSettings(**OFF).model_dump_json())) == before
    assert list(AdapterSettings(**ALL).model_dump()) == [*before, *ALL]
    config = AdapterConfig(encoding_dim=4, context_dim=4, bands=2, **ALL)
    assert AdapterConfig(**json.loads(config.model_dump_json())) == config
    assert not set(ALL) & set(AdapterConfig(encoding_dim=4, context_dim=4).model_dump())


@pytest.mark.parametrize("setting", [{"refiner": 1}, {"refiner": 2}, {"standardise": True}])
def test_a_setting_leaves_the_other_draws_as_they_were(setting: dict[str, Any]) -> None:
    plain, other = (tiny.adapter(tiny.unet(), copy_original=False, **some) for some in ({}, setting))
    assert all(torch.equal(tensor, other.state()[name]) for name, tensor in plain.state().items())


def test_unmeasured_statistics_start_without_effect() -> None:
    plain, other = (tiny.adapter(tiny.unet(), standardise=some) for some in (False, True))
    x = tiny.inputs()
    expected = predicted(plain, tiny.unet(), x["encodings"])
    assert torch.equal(predicted(other, tiny.unet(), x["encodings"]), expected)
    disturb(other)
    assert not torch.allclose(predicted(other, tiny.unet(), x["encodings"]), expected)


def test_gates_start_as_the_mean_of_the_normalised_bands() -> None:
    adapter, mask = tiny.adapter(tiny.unet(), {"bands": BANDS}, band_gates=True), tiny.inputs()["mask"]
    one = tiny.adapter(tiny.unet(), copy_original=False)
    one.phi.load_state_dict(adapter.phi.state_dict())
    contexts = [one.context(banded()[:, band], mask) for band in range(BANDS)]
    context = adapter.context(banded(), mask)
    for path in map(str, (row["layer"] for row in adapter.weights_by_layer())):
        gate = adapter.layer(path).gate
        assert gate is not None
        torch.testing.assert_close(gate(context), torch.stack(contexts).mean(0))
    assert [row["bands"] for row in adapter.weights_by_layer()] == [pytest.approx([1 / 3] * BANDS)] * 4


def test_each_layer_mixes_for_itself() -> None:
    """A layer that takes one band alone reads what an adapter for that band reads."""
    unet, x = tiny.unet(), tiny.inputs()
    adapter = tiny.adapter(unet, {"bands": BANDS}, band_gates=True, new_weight=0.5)
    one = tiny.adapter(unet, new_weight=0.5)
    one.phi.load_state_dict(adapter.phi.state_dict())
    seen: dict[str, Tensor] = {}
    for number, row in enumerate(adapter.weights_by_layer()):
        layer = adapter.layer(row["layer"])
        assert layer.gate is not None
        assert layer.new is not None
        with torch.no_grad():
            layer.gate.logits[number % BANDS] = 1e4
        layer.new.register_forward_hook(lambda _, given, out, at=row["layer"]: seen.update({at: given[1]}))
    assert predicted(adapter, unet, banded()).isfinite().all()
    for number, context in enumerate(seen.values()):
        torch.testing.assert_close(context, one.context(banded()[:, number % BANDS], x["mask"]))
    assert len(seen) == 4


def test_gates_need_bands() -> None:
    with pytest.raises(ValueError, match=r"band_gates mixes bands: expected several, found 1 in these: encode with"):
        tiny.adapter(tiny.unet(), band_gates=True)


def test_standardised_encodings_are_those_of_a_plain_adapter_on_standardised_ones() -> None:
    unet, mask = tiny.unet(), tiny.inputs()["mask"]
    adapter = tiny.adapter(unet, {"bands": BANDS}, standardise=True)
    disturb(adapter)
    plain = tiny.adapter(unet, {"bands": BANDS})
    plain.load_state(adapter.state())
    told = adapter.phi.standardisation
    assert told is not None
    encodings = (banded() - told.mean[:, None]) / told.std[:, None]
    assert torch.equal(adapter.context(banded(), mask), plain.context(encodings, mask))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_statistics_stay_float32_and_16_bits_are_enough_for_the_rest(dtype: torch.dtype) -> None:
    adapter, mask = tiny.adapter(tiny.unet(), {"bands": BANDS}, **ALL), tiny.inputs()["mask"]
    disturb(adapter)
    expected = adapter.context(banded(), mask)
    told = adapter.phi.standardisation
    assert told is not None
    with torch.no_grad():
        told.mean[0, 7], told.std[0, 7] = 1e6, 2e5  # more than float16 holds
    before = told.mean.clone(), told.std.clone()
    adapter.to(dtype).to("cpu", dtype)
    assert {tensor.dtype for tensor in adapter.parameters()} == {dtype}
    assert (told.mean.dtype, told.std.dtype) == (torch.float32, torch.float32)
    assert torch.equal(told.mean, before[0])
    assert torch.equal(told.std, before[1])
    told.set(before[0].index_put((torch.tensor(0), torch.tensor(7)), torch.tensor(0.0)), before[1])
    found = adapter.context(banded(), mask)
    assert (found.dtype, found.shape, found.isfinite().all()) == (dtype, expected.shape, True)


@pytest.mark.parametrize("clip", [False, True])
def test_gradients_reach_everything_and_junk_in_the_padding_nothing(clip: bool) -> None:
    unet, x = tiny.unet(), tiny.inputs()
    adapter = tiny.adapter(unet, {"bands": BANDS}, base_context="clip" if clip else "llm", new_weight=0.5, **ALL)
    disturb(adapter)
    results = []
    for junk in (0.0, float("nan"), float("inf"), -1e30):
        adapter.zero_grad()
        encodings = torch.where(x["mask"][:, None, :, None], banded(), junk)
        found = predicted(adapter, unet, encodings, base=x["base"] if clip else None)
        found.square().mean().backward()
        assert all(p.grad is not None and p.grad.abs().max() > 0 for p in adapter.parameters())
        results.append([found.detach(), *(p.grad.clone() for p in adapter.parameters() if p.grad is not None)])
    assert all(torch.equal(clean, soiled) for one in results[1:] for clean, soiled in zip(results[0], one, strict=True))


def test_more_padding_and_other_captions_beside_it_are_the_same_caption() -> None:
    unet, x = tiny.unet(), tiny.inputs()
    adapter = tiny.adapter(unet, {"bands": BANDS}, new_weight=0.5, **ALL)
    disturb(adapter)
    adapter.install(unet)
    short = adapter.context(banded(), x["mask"])
    longer = torch.nn.functional.pad(banded(), (0, 0, 0, 9))
    long = adapter.context(longer, torch.nn.functional.pad(x["mask"], (0, 9)))
    torch.testing.assert_close(*same_length(short, long))
    torch.testing.assert_close(tiny.predict(unet, x, long), tiny.predict(unet, x, short))
    assert adapter.context(banded(), torch.zeros_like(x["mask"])).abs().max() == 0


def test_the_frozen_unet_is_exact_beside_them() -> None:
    unet, x = tiny.unet(), tiny.inputs()
    frozen = tiny.predict(unet, x, x["base"])
    adapter = tiny.adapter(unet, {"bands": BANDS}, base_context="clip", new_weight=0.0, **ALL)
    assert torch.equal(predicted(adapter, unet, banded(), base=x["base"]), frozen)


def test_what_is_saved_loads_and_predicts_the_same(tmp_path: Path) -> None:
    unet = tiny.unet()
    adapter = tiny.adapter(unet, {"bands": BANDS}, **ALL)
    disturb(adapter)
    expected = predicted(adapter, unet, banded())
    loaded = LLMAdapter.load(adapter.save(tmp_path / "whole", dtype=torch.float32), unet)
    assert loaded.config == adapter.config
    assert torch.equal(predicted(loaded, unet, banded()), expected)
    tensors = load_file(adapter.save(tmp_path / "half") / "adapter.safetensors")
    for name, tensor in adapter.named_buffers():
        assert tensors[name].dtype == torch.float32
        assert torch.equal(tensors[name], tensor)
    assert parameters(tmp_path / "half") == sum(parameter.numel() for parameter in adapter.parameters())


def test_a_file_of_another_setting_is_refused(tmp_path: Path) -> None:
    tiny.adapter(tiny.unet(), refiner=1).save(tmp_path)
    about = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**about, "refiner": 2}))
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(ValueError, match=r"refiner\.blocks\.1\.\S+ is missing"):
        LLMAdapter.load(tmp_path, tiny.unet())


@pytest.fixture(scope="module")
def gated(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Adapters with all three, on both kinds of base."""
    root = tmp_path_factory.mktemp("gated")
    encoder = Encoder.from_pretrained(folders["llama"], EncoderConfig(dtype="float32", max_tokens=20, bands=2))
    facts = {"encoder_description": encoder.describe(), "llm": "tiny-llama", "bands": 2}
    for name, changes, settings in (
        ("llm", tiny.ONE_RESOLUTION, {}),
        ("clip", tiny.ONE_RESOLUTION, {"base_context": "clip"}),
        ("xl", tiny.SDXL_CHANGES, {"base_context": "clip"}),
    ):
        adapter = tiny.adapter(tiny.unet(**changes), facts, new_weight=0.5, **settings, **ALL)
        disturb(adapter)
        adapter.save(root / name)
    return {path.name: path for path in root.iterdir()}


@pytest.mark.parametrize("name", ["llm", "clip"])
def test_pipelines_draw_with_them(folders: dict[str, Path], gated: dict[str, Path], name: str) -> None:
    pipe = quiet(LLMDiffPipeline.from_pretrained(folders["base"], gated[name], folders["llama"]))
    prompts = ["a red circle", "a small blue square to the left of the large green triangle"]
    both = draw(pipe, prompts, negative_prompt=["below", "a blue square"], latents=torch.randn(2, 4, 8, 8))
    assert np.isfinite(both).all()
    generators = [torch.Generator().manual_seed(seed) for seed in (5, 6)]
    both = draw(pipe, prompts, generator=generators)
    np.testing.assert_allclose(both[0], draw(pipe, prompts[0], seed=5)[0], atol=1e-4)
    given, without = pipe.encode_prompt(prompts[0], pipe.device, 1, True)
    assert given.shape[-1] == without.shape[-1] == 2 * tiny.WIDTH
    again = draw(pipe, None, prompt_embeds=given, negative_prompt_embeds=without, seed=5)
    np.testing.assert_allclose(again[0], both[0], atol=1e-4)


def test_xl_pipelines_and_controlnets_draw_with_them(gated: dict[str, Path], folders: dict[str, Path]) -> None:
    from diffusers import StableDiffusionControlNetPipeline

    from llmdiff import load_adapter

    xl = tiny.xl_pipeline()
    load_adapter(xl, gated["xl"], folders["llama"])
    assert np.isfinite(draw(xl)).all()
    plain = tiny.pipeline(**tiny.ONE_RESOLUTION)
    net = tiny.controlnet(plain.unet)
    pipe = quiet(StableDiffusionControlNetPipeline(**plain.components, controlnet=net, requires_safety_checker=False))
    load_adapter(pipe, gated["llm"], folders["llama"])
    assert np.isfinite(draw(pipe, image=torch.rand(1, 3, 64, 64))).all()
