"""The adapter on a frozen U-Net: sizes, Eq. 9, step 0, gradients, scale, and what is refused."""

from __future__ import annotations

import pytest
import torch
from diffusers import UNet2DConditionModel

from llmdiff.adapter import AdapterConfig, cross_attention_shapes
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


def test_two_adapters_in_one_unet_are_refused() -> None:
    unet = tiny.unet()
    tiny.adapter(unet).install(unet)
    with pytest.raises(ValueError, match="holds an adapter already"):
        tiny.adapter(tiny.unet()).install(unet)


def test_unknown_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="colour"):
        AdapterConfig(encoding_dim=4, context_dim=4, colour="red")
