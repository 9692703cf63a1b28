"""The refiner by itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from llmdiff.adapter.phi import Float32LayerNorm
from llmdiff.adapter.refiner import Refiner, heads_of
from tests.adapter import tiny


def test_the_refiner_is_a_pre_norm_transformer_whose_tokens_see_those_after_them() -> None:
    """It is held against torch's own encoder layer, which has the same parameters under other names."""
    torch.manual_seed(1)
    width, heads = 128, heads_of(128)
    refiner = Refiner(width, 1).double()
    for parameter in refiner.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    ours: Any = refiner.blocks[0]
    layer = torch.nn.TransformerEncoderLayer(
        width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    ).double()
    attention = ours.attention
    state = {
        "self_attn.in_proj_weight": torch.cat([attention.to_q.weight, attention.to_k.weight, attention.to_v.weight]),
        "self_attn.in_proj_bias": torch.zeros(3 * width),
        "self_attn.out_proj": attention.to_out,
        "linear1": ours.mlp_in,
        "linear2": ours.mlp_out,
        "norm1": ours.attention_norm,
        "norm2": ours.mlp_norm,
    }
    flat = {}
    for name, value in state.items():
        parts = {"": value} if isinstance(value, Tensor) else {f".{k}": v for k, v in value.state_dict().items()}
        flat |= {name + end: tensor for end, tensor in parts.items()}
    layer.load_state_dict(flat)
    tokens, mask = torch.randn(2, 5, width, dtype=torch.float64), torch.arange(5) < torch.tensor([[5], [3]])
    expected = layer(tokens, src_key_padding_mask=~mask).masked_fill(~mask[..., None], 0)
    torch.testing.assert_close(refiner(tokens, mask), expected, atol=1e-5, rtol=1e-5)  # our norms are float32
    later = tokens.clone()
    later[0, 4, 0] += 3
    assert (refiner(later, mask)[0, 0] - refiner(tokens, mask)[0, 0]).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("width", "heads"), [(32, 1), (64, 1), (100, 1), (768, 12), (1024, 16), (2048, 32), (1000, 10)]
)
def test_heads_divide_the_width(width: int, heads: int) -> None:
    assert heads_of(width) == heads


def test_norms_are_float32_layer_norms() -> None:
    adapter = tiny.adapter(tiny.unet(), refiner=2)
    norms = [module for module in adapter.modules() if isinstance(module, torch.nn.LayerNorm)]
    assert len(norms) == 5
    assert all(isinstance(norm, Float32LayerNorm) for norm in norms)
