"""The adapter on a frozen U-Net: sizes, Eq. 9, step 0, gradients, padding, files."""

from __future__ import annotations

import json

import pytest
import torch
from diffusers import UNet2DConditionModel
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from llmdiff.adapter import AdapterConfig, LLMAdapter, cross_attention_shapes
from llmdiff.adapter.padding import pad, replace
from llmdiff.adapter.prompts import same_length
from tests.adapter import tiny


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(("hidden", "millions"), [(2048, 45.5), (4096, 47.1)])
def test_size_on_the_real_stable_diffusion_1_5(hidden: int, millions: float) -> None:
    with torch.device("meta"):
        unet = UNet2DConditionModel(**tiny.SD15)
        adapter = tiny.adapter(unet, {"encoding_dim": hidden})
    assert round(count(unet) / 1e6) == 860
    assert (
        sorted(shape.query_dim for shape in cross_attention_shapes(unet).values()) == [320] * 5 + [640] * 5 + [1280] * 6
    )
    attentions = sum(count(layer.new) for layer in adapter.layers.values())
    scalars = sum(layer.a.numel() + layer.b.numel() for layer in adapter.layers.values())
    assert round(attentions / 1e6, 2) == 43.96
    assert scalars == 16 * 4
    assert round((attentions + count(adapter.phi.linear)) / 1e6, 1) == millions
    assert count(adapter) == attentions + scalars + count(adapter.phi)


@pytest.mark.parametrize(("config", "layers", "millions"), [(tiny.SD2, 16, 52.5), (tiny.SDXL, 70, 549.9)])
def test_size_on_other_stable_diffusions(config: dict[str, object], layers: int, millions: float) -> None:
    with torch.device("meta"):
        adapter = tiny.adapter(UNet2DConditionModel(**config), {"encoding_dim": 2048})
    assert len(adapter.layers) == layers
    assert round(count(adapter) / 1e6, 1) == millions


@pytest.mark.parametrize("base_context", ["llm", "clip"])
@pytest.mark.parametrize("changes", [tiny.SD2_CHANGES, tiny.SDXL_CHANGES], ids=["SD 2", "SDXL"])
def test_shapes_of_other_stable_diffusions(changes: dict[str, object], base_context: str) -> None:
    unet, x = tiny.unet(**changes), tiny.inputs()
    base = torch.randn(2, tiny.TOKENS, unet.config.cross_attention_dim)
    added = {"text_embeds": torch.randn(2, tiny.WIDTH), "time_ids": torch.ones(2, 6)}

    def predict(context: torch.Tensor) -> torch.Tensor:
        return unet(x["latents"], x["timesteps"], encoder_hidden_states=context, added_cond_kwargs=added).sample

    frozen = predict(base)
    adapter = tiny.adapter(unet, base_context=base_context, new_weight=0.5)
    adapter.install(unet)
    context = adapter.context(x["encodings"], x["mask"], base if base_context == "clip" else None)
    predicted = predict(context)
    assert predicted.isfinite().all()
    assert not torch.equal(predicted, frozen)
    adapter.scale = 0.0
    assert torch.equal(predict(context), frozen) == (base_context == "clip")
    adapter.uninstall()
    assert torch.equal(predict(base), frozen)


def test_step_zero_with_clip_context_is_the_frozen_unet_bit_for_bit() -> None:
    unet, x = tiny.unet(), tiny.inputs()
    frozen = tiny.predict(unet, x, x["base"])
    adapter = tiny.adapter(unet, base_context="clip", original_weight=1.0, new_weight=0.0)
    adapter.install(unet)
    assert torch.equal(tiny.predict(unet, x, adapter.context(x["encodings"], x["mask"], x["base"])), frozen)


def test_step_zero_with_llm_context_is_the_frozen_unet_fed_phi() -> None:
    unet, x = tiny.unet(), tiny.inputs()
    adapter = tiny.adapter(unet, new_weight=0.0)
    context = adapter.context(x["encodings"], x["mask"])
    frozen = unet(x["latents"], x["timesteps"], encoder_hidden_states=context, encoder_attention_mask=x["mask"]).sample
    adapter.install(unet)
    assert torch.equal(tiny.predict(unet, x, context), frozen)


def test_equation_9_of_one_layer() -> None:
    unet, x = tiny.unet(), tiny.inputs()
    adapter = tiny.adapter(unet, base_context="clip", copy_original=False, original_weight=0.7, new_weight=0.3)
    adapter.install(unet)
    path = next(iter(cross_attention_shapes(unet)))
    attn, layer = unet.get_submodule(path), adapter.layer(path)
    with torch.no_grad():
        layer.b.copy_(torch.tensor([0.2, -0.1]))
    hidden = torch.randn(2, 16, attn.query_dim)
    phi = adapter.context(x["encodings"], x["mask"], x["base"])[:, tiny.TOKENS :]

    def attend(to_q, to_k, to_v, to_out, context, mask):  # noqa: ANN001, ANN202
        q, k, v = (
            to(y).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for to, y in ((to_q, hidden), (to_k, context), (to_v, context))
        )
        scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        scores = scores.masked_fill(~mask[:, None, None], -torch.inf)
        return to_out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))

    everything = torch.ones(2, tiny.TOKENS, dtype=torch.bool)
    original = attend(attn.to_q, attn.to_k, attn.to_v, attn.to_out[0], x["base"], everything)
    new = attend(layer.new.to_q, layer.new.to_k, layer.new.to_v, layer.new.to_out, phi, x["mask"])
    a1, a2 = layer.a
    b1, b2 = layer.b
    expected = original * a1 * b1.exp() + new * a2 * b2.exp()
    torch.testing.assert_close(attn(hidden, torch.cat([x["base"], phi], dim=1)), expected)


@pytest.mark.parametrize("base_context", ["llm", "clip"])
def test_gradients_reach_all_that_is_trained_and_nothing_frozen(base_context: str) -> None:
    unet, x = tiny.unet(), tiny.inputs()
    adapter = tiny.adapter(unet, {"bands": 3}, base_context=base_context, new_weight=0.1)
    adapter.install(unet)
    encodings = torch.randn(2, 3, 6, tiny.HIDDEN)
    base = x["base"] if base_context == "clip" else None
    tiny.predict(unet, x, adapter.context(encodings, x["mask"], base)).square().mean().backward()
    trained = set(map(id, adapter.parameters()))
    for name, parameter in adapter.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    for name, parameter in unet.named_parameters():
        assert id(parameter) in trained or parameter.grad is None, name


@pytest.mark.parametrize("paths", ["original", "new"])
def test_ablations_leave_the_other_path_out(paths: str) -> None:
    unet, x = tiny.unet(), tiny.inputs()
    adapter = tiny.adapter(unet, paths=paths)
    adapter.install(unet)
    names = [name for name, _ in adapter.named_parameters()]
    assert any(".new." in name for name in names) == (paths == "new")
    if paths == "new":  # with the original module out of use, its weights can be anything
        for path in cross_attention_shapes(unet):
            unet.get_submodule(path).to_k.weight.fill_(torch.nan)
    assert tiny.predict(unet, x, adapter.context(x["encodings"], x["mask"])).isfinite().all()


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 6), min_size=2, max_size=2),
    junk=st.sampled_from([0.0, 1.0, -1e30, float("inf"), float("nan")]),
    clip=st.booleans(),
)
def test_padding_never_changes_the_output(lengths: list[int], junk: float, clip: bool) -> None:
    unet, x = tiny.unet(), tiny.inputs()
    adapter = tiny.adapter(unet, base_context="clip" if clip else "llm", new_weight=0.5)
    adapter.install(unet)
    mask = torch.arange(6) < torch.tensor(lengths)[:, None]
    dirty = torch.where(mask[..., None], x["encodings"], junk)
    results = []
    for encodings in (x["encodings"], dirty):
        adapter.zero_grad()
        output = tiny.predict(unet, x, adapter.context(encodings, mask, x["base"] if clip else None))
        output.square().mean().backward()
        results.append([output.detach(), *(p.grad.clone() for p in adapter.parameters())])
    assert all(torch.equal(clean, soiled) for clean, soiled in zip(*results, strict=True))


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 6), min_size=2, max_size=2),
    negative_lengths=st.lists(st.integers(1, 4), min_size=2, max_size=2),
    junk=st.sampled_from([0.0, 1.0, -1e30, float("inf"), float("nan")]),
    bands=st.sampled_from([1, 3]),
    clip=st.booleans(),
)
def test_padding_never_changes_what_guidance_sees(
    lengths: list[int], negative_lengths: list[int], junk: float, bands: int, clip: bool
) -> None:
    """Prompts and negative prompts of other lengths, as a pipeline brings them together."""
    unet, x = tiny.unet(), tiny.inputs(batch=4)
    adapter = tiny.adapter(unet, {"bands": bands}, base_context="clip" if clip else "llm", new_weight=0.5)
    adapter.install(unet)

    def predicted(junk: float) -> torch.Tensor:
        contexts = []
        for found, tokens in ((lengths, 6), (negative_lengths, 4)):
            generator = torch.Generator().manual_seed(tokens)
            encodings = torch.randn(2, *([bands] if bands > 1 else []), tokens, tiny.HIDDEN, generator=generator)
            mask = torch.arange(tokens) < torch.tensor(found)[:, None]
            seen = mask[:, None, :, None] if bands > 1 else mask[..., None]
            encodings = torch.where(seen, encodings, junk)
            contexts.append(adapter.context(encodings, mask, x["base"][:2] if clip else None))
        return tiny.predict(unet, x, torch.cat(same_length(*contexts)))

    assert torch.equal(predicted(0.0), predicted(junk))


def test_more_padding_is_the_same_caption() -> None:
    unet, x = tiny.unet(), tiny.inputs()
    adapter = tiny.adapter(unet, new_weight=0.5)
    adapter.install(unet)
    longer = torch.nn.functional.pad(x["encodings"], (0, 0, 0, 9))
    mask = torch.nn.functional.pad(x["mask"], (0, 9))
    short = tiny.predict(unet, x, adapter.context(x["encodings"], x["mask"]))
    torch.testing.assert_close(tiny.predict(unet, x, adapter.context(longer, mask)), short)


def test_a_context_of_padding_alone_is_finite() -> None:
    unet, x = tiny.unet(), tiny.inputs()
    tiny.adapter(unet, new_weight=0.5).install(unet)
    assert tiny.predict(unet, x, torch.zeros(2, 5, tiny.WIDTH)).isfinite().all()


def test_bands_sum_with_learned_weights() -> None:
    unet = tiny.unet()
    adapter = tiny.adapter(unet, {"bands": 2})
    encodings, mask = torch.randn(2, 2, 6, tiny.HIDDEN), torch.ones(2, 6, dtype=torch.bool)
    with torch.no_grad():
        adapter.phi.g.copy_(torch.tensor([0.5, 2.0]))
    summed = 0.5 * encodings[:, 0] + 2.0 * encodings[:, 1]
    one = tiny.adapter(unet)
    one.phi.load_state_dict({k: v for k, v in adapter.phi.state_dict().items() if k != "g"})
    torch.testing.assert_close(adapter.context(encodings, mask), one.context(summed, mask))


def test_outlier_channels_are_normalised_in_float32() -> None:
    unet = tiny.unet()
    encodings, mask = torch.randn(1, 4, tiny.HIDDEN), torch.ones(1, 4, dtype=torch.bool)
    encodings[..., 7] = 3e4
    adapter = tiny.adapter(unet)
    expected = adapter.context(encodings, mask)
    found = adapter.to(torch.bfloat16).context(encodings, mask)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, atol=0.05, rtol=0.05)


@pytest.mark.parametrize("base_context", ["llm", "clip"])
def test_scale_leads_from_the_original_to_equation_9(base_context: str) -> None:
    unet, x = tiny.unet(), tiny.inputs()
    adapter = tiny.adapter(unet, base_context=base_context, original_weight=0.6, new_weight=0.4)
    context = adapter.context(x["encodings"], x["mask"], x["base"] if base_context == "clip" else None)
    original = tiny.predict(unet, x, x["base"]) if base_context == "clip" else None
    adapter.install(unet)
    whole = tiny.predict(unet, x, context)
    adapter.scale = 0.0
    if original is not None:
        assert torch.equal(tiny.predict(unet, x, context), original)
    nothing = tiny.predict(unet, x, context)
    adapter.scale = 0.5
    half = tiny.predict(unet, x, context)
    assert not torch.equal(half, whole)
    assert not torch.equal(half, nothing)
    adapter.scale = 1.0
    assert torch.equal(tiny.predict(unet, x, context), whole)


def test_uninstall_gives_the_unet_back() -> None:
    unet, x = tiny.unet(), tiny.inputs()
    before, names = tiny.predict(unet, x, x["base"]), list(unet.state_dict())
    processors = dict(unet.attn_processors)
    adapter = tiny.adapter(unet)
    adapter.install(unet)
    adapter.uninstall()
    assert unet.attn_processors == processors
    assert list(unet.state_dict()) == names
    assert torch.equal(tiny.predict(unet, x, x["base"]), before)


def test_saved_adapter_loads_and_predicts_the_same(tmp_path) -> None:
    unet, x = tiny.unet(), tiny.inputs()
    adapter = tiny.adapter(unet, {"llm": "phi", "encoder_fingerprint": "f00"}, copy_original=False)
    adapter.install(unet)
    expected = tiny.predict(unet, x, adapter.context(x["encodings"], x["mask"]))
    adapter.uninstall()
    adapter.save(tmp_path, dtype=torch.float32)
    names = ["adapter.safetensors", "adapter_config.json", "manifest.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    loaded = LLMAdapter.load(tmp_path, unet)
    assert loaded.config == adapter.config
    loaded.install(unet)
    assert torch.equal(tiny.predict(unet, x, loaded.context(x["encodings"], x["mask"])), expected)


def test_files_hold_16_bit_matrices_and_whole_scalars(tmp_path) -> None:
    unet, x = tiny.unet(), tiny.inputs()
    adapter = tiny.adapter(unet, copy_original=False)
    adapter.install(unet)
    expected = tiny.predict(unet, x, adapter.context(x["encodings"], x["mask"]))
    adapter.uninstall()
    tensors = load_file(adapter.save(tmp_path) / "adapter.safetensors")
    for name, tensor in adapter.state().items():
        assert tensors[name].dtype == (torch.float16 if tensor.ndim == 2 else torch.float32)
        torch.testing.assert_close(tensors[name].float(), tensor, atol=1e-6, rtol=1e-3)
    loaded = LLMAdapter.load(tmp_path, unet)
    assert all(torch.equal(tensor, tensors[name].float()) for name, tensor in loaded.state().items())
    first = (tmp_path / "adapter.safetensors").read_bytes()
    assert (loaded.save(tmp_path) / "adapter.safetensors").read_bytes() == first
    loaded.install(unet)
    found = tiny.predict(unet, x, loaded.context(x["encodings"], x["mask"]))
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)


def test_what_16_bits_cannot_hold_stays_whole(tmp_path) -> None:
    adapter = tiny.adapter(tiny.unet())
    with torch.no_grad():
        adapter.phi.linear.weight[0, 0] = 1e6
    adapter.save(tmp_path)
    assert torch.equal(LLMAdapter.load(tmp_path, tiny.unet()).phi.linear.weight, adapter.phi.linear.weight)


def test_the_file_for_stable_diffusion_1_5_is_of_91_megabytes() -> None:
    with torch.device("meta"):
        state = tiny.adapter(UNet2DConditionModel(**tiny.SD15), {"encoding_dim": 2048}).state()
    size = sum(tensor.numel() * (2 if tensor.ndim == 2 else 4) for tensor in state.values())
    assert round(size / 1e6) == 91


def test_keys_in_the_file_are_module_paths(tmp_path) -> None:
    unet = tiny.unet()
    keys = set(tiny.adapter(unet).state())
    paths = list(cross_attention_shapes(unet))
    assert {f"{path}.new.to_q.weight" for path in paths} < keys
    assert {"phi.linear.weight", f"{paths[0]}.a", f"{paths[0]}.b"} < keys


def test_weights_by_layer_are_a_e_to_the_b() -> None:
    adapter = tiny.adapter(tiny.unet(), original_weight=0.8, new_weight=0.2)
    with torch.no_grad():
        next(iter(adapter.layers.values())).b.copy_(torch.tensor([0.0, 1.0]))
    first, middle, *_, last = adapter.weights_by_layer()
    assert middle["layer"].startswith("mid_block")
    assert last["layer"].startswith("up_blocks")
    assert first["layer"].startswith("down_blocks.1")
    assert first["original"] == pytest.approx(0.8)
    assert first["new"] == pytest.approx(0.2 * 2.718281828)
    assert last["new"] == pytest.approx(0.2)


def test_copy_original_starts_as_the_original() -> None:
    unet = tiny.unet()
    adapter = tiny.adapter(unet)
    for path in cross_attention_shapes(unet):
        attn, new = unet.get_submodule(path), adapter.layer(path).new
        assert torch.equal(new.to_k.weight, attn.to_k.weight)
        assert torch.equal(new.to_out.bias, attn.to_out[0].bias)


def test_a_unet_without_cross_attention_is_refused() -> None:
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2, "mid_block_type": None}
    with pytest.raises(ValueError, match="no cross-attention"):
        tiny.adapter(tiny.unet(**blocks))


def test_a_unet_with_added_keys_is_refused() -> None:
    blocks = ("SimpleCrossAttnDownBlock2D",) * 2, ("SimpleCrossAttnUpBlock2D",) * 2
    unet = tiny.unet(
        down_block_types=blocks[0], up_block_types=blocks[1], mid_block_type="UNetMidBlock2DSimpleCrossAttn"
    )
    with pytest.raises(ValueError, match="plain cross-attention"):
        tiny.adapter(unet)


@pytest.mark.parametrize(
    "setting",
    [
        {"addition_embed_type": "text", "encoder_hid_dim": 32, "addition_embed_type_num_heads": 4},
        {"addition_embed_type": "image"},
        {"encoder_hid_dim": 8, "encoder_hid_dim_type": "text_proj"},
        {"class_embed_type": "timestep"},
        {"dual_cross_attention": True},
    ],
    ids=str,
)
def test_a_unet_that_reads_text_elsewhere_is_refused(setting: dict[str, object]) -> None:
    unet = tiny.unet()
    unet.register_to_config(**setting)
    with pytest.raises(ValueError, match=f"has {'|'.join(setting)} .*expected None"):
        tiny.adapter(tiny.unet()).install(unet)
    with pytest.raises(ValueError, match=f"has {'|'.join(setting)} .*expected None"):
        tiny.adapter(unet)


@pytest.mark.parametrize("paths", ["both", "original", "new"])
def test_scale_zero_leaves_the_new_path_out(paths: str) -> None:
    unet, x = tiny.unet(), tiny.inputs()
    frozen = tiny.predict(unet, x, x["base"])
    adapter = tiny.adapter(unet, base_context="clip", paths=paths)
    adapter.install(unet)
    for parameter in adapter.layers.parameters():
        parameter.data.fill_(torch.nan)  # not even looked at
    adapter.scale = 0.0
    assert torch.equal(tiny.predict(unet, x, adapter.context(x["encodings"], x["mask"], x["base"])), frozen)


@pytest.mark.parametrize(
    ("encodings", "base", "message"),
    [
        (torch.zeros(1, 3, 40), None, r"\(1, 48\), found \(1, 40\)"),
        (torch.zeros(1, 2, 3, 48), None, r"\(1, 48\), found \(2, 48\)"),
        (torch.zeros(1, 3, 48), torch.zeros(1, 12, 32), "reads 0 tokens .* found 12"),
    ],
)
def test_wrong_inputs_are_named(encodings: torch.Tensor, base: torch.Tensor | None, message: str) -> None:
    adapter = tiny.adapter(tiny.unet())
    with pytest.raises(ValueError, match=message):
        adapter.context(encodings, torch.ones(1, 3, dtype=torch.bool), base)


def test_an_adapter_of_another_unet_is_refused(tmp_path) -> None:
    tiny.adapter(tiny.unet(), {"base_model": "some-base"}).save(tmp_path)
    with pytest.raises(ValueError, match="another U-Net .*some-base"):
        LLMAdapter.load(tmp_path, tiny.unet(down_block_types=("CrossAttnDownBlock2D",) * 2))
    with pytest.raises(ValueError, match=r"expected \(64, 64\)|expected \(.*\), found"):
        LLMAdapter.load(tmp_path, tiny.unet(block_out_channels=(16, 64)))
    with pytest.raises(ValueError, match="context width 32, the U-Net .* of 40"):
        tiny.adapter(tiny.unet()).install(tiny.unet(cross_attention_dim=40))


def test_two_adapters_in_one_unet_are_refused() -> None:
    unet = tiny.unet()
    tiny.adapter(unet).install(unet)
    with pytest.raises(ValueError, match="holds an adapter already"):
        tiny.adapter(tiny.unet()).install(unet)


def test_broken_files_are_named(tmp_path) -> None:
    unet = tiny.unet()
    with pytest.raises(FileNotFoundError, match="adapter_config.json"):
        LLMAdapter.load(tmp_path / "nothing", unet)
    tiny.adapter(unet).save(tmp_path)
    (tmp_path / "manifest.json").unlink()
    config = tmp_path / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "colour": "red"}))
    with pytest.raises(ValueError, match=r"adapter_config.json.*(?s:.*)colour"):
        LLMAdapter.load(tmp_path, unet)


def test_unknown_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="colour"):
        AdapterConfig(encoding_dim=4, context_dim=4, colour="red")


def test_captions_of_different_lengths_pad_into_a_batch() -> None:
    encodings, mask = pad([torch.ones(2, 3), torch.ones(4, 3)])
    assert encodings.shape == (2, 4, 3)
    assert mask.tolist() == [[True, True, False, False], [True] * 4]
    assert encodings[0, 2:].abs().sum() == 0


@pytest.mark.parametrize("null_length", [1, 4, 7])
@pytest.mark.parametrize("bands", [(), (2,)])
def test_dropped_captions_become_the_empty_one(null_length: int, bands: tuple[int, ...]) -> None:
    encodings, mask = torch.randn(3, *bands, 4, 5), torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]]).bool()
    null = torch.randn(*bands, null_length, 5)
    replaced, new_mask = replace(encodings, mask, null, torch.tensor([False, True, False]))
    assert torch.equal(replaced[1][..., :null_length, :], null)
    assert new_mask.sum(1).tolist() == [4, null_length, 1]
    assert torch.equal(replaced[0][..., :4, :], encodings[0])
    assert torch.equal(replaced[2][..., :4, :], encodings[2])
