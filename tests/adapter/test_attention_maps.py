"""The maps of both cross-attentions are torch's own attention, averaged over heads, layers and steps."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from llmdiff.adapter.attention_maps import NEW, ORIGINAL, layer_size, recorded
from llmdiff.adapter.padding import pad
from tests.adapter import tiny


def attention(query: Tensor, key: Tensor, heads: int, bias: Tensor) -> Tensor:
    """Shares ``(place, token)`` by torch's attention to the identity; `bias` ``(token,)``."""
    q, k = (x.unflatten(-1, (heads, -1)).transpose(0, 1) for x in (query, key))
    return F.scaled_dot_product_attention(q, k, torch.eye(len(key)).expand(heads, -1, -1), attn_mask=bias).mean(0)


@pytest.mark.parametrize("base_context", ["llm", "clip"])
def test_the_mean_is_that_of_torchs_attention(base_context: str) -> None:
    unet = tiny.unet()
    adapter = tiny.adapter(unet, base_context=base_context).requires_grad_(False)
    adapter.install(unet)
    torch.manual_seed(1)
    encodings, mask = pad([torch.randn(3, tiny.HIDDEN), torch.randn(5, tiny.HIDDEN)])
    base = torch.randn(2, tiny.TOKENS, tiny.WIDTH) if base_context == "clip" else None
    context = adapter.context(encodings, mask, base)
    context = F.pad(context, (0, 0, 0, 1))  # the row of zeros that ends a pipeline's contexts
    inputs: list[tuple[Any, Any, Tensor]] = []
    hooks = [
        attn.register_forward_pre_hook(
            lambda module, args, kwargs, processor=processor: inputs.append((module, processor, args[0][-1])),
            with_kwargs=True,
        )
        for attn, processor in adapter.processors
    ]
    with recorded(adapter, (8, 8)) as maps:
        for timestep in (100, 10):
            unet(torch.randn(2, 4, 8, 8), timestep, encoder_hidden_states=context)
    assert len(inputs) == 2 * len(hooks)
    own = context[-1, adapter.config.base_tokens :]
    of_base = own if base is None else base[-1]
    hidden = torch.cat([torch.zeros(5), torch.full((1,), -math.inf)])
    for path, read, bias in (
        (NEW, own, hidden),
        (ORIGINAL, of_base, hidden if base is None else torch.zeros(len(of_base))),
    ):
        expected = [
            F.interpolate(shares.T.unflatten(1, (math.isqrt(len(x)),) * 2)[None], (8, 8), mode="bilinear")[0]
            for module, processor, x in inputs
            for part in [processor.layer.new if path == NEW else module]
            for shares in [attention(part.to_q(x), part.to_k(read), part.heads, bias)]
        ]
        found = maps.mean(path)
        assert found is not None
        torch.testing.assert_close(found, torch.stack(expected).mean(0), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(found.sum(0), torch.ones(8, 8))


def test_without_a_new_path_there_is_the_original_alone() -> None:
    unet = tiny.unet()
    adapter = tiny.adapter(unet, paths="original")
    adapter.install(unet)
    with recorded(adapter, (8, 8)) as maps:
        unet(torch.randn(1, 4, 8, 8), 1, encoder_hidden_states=torch.randn(1, 3, tiny.WIDTH))
    assert maps.mean(NEW) is None
    assert maps.mean(ORIGINAL) is not None


def test_layers_of_pictures_that_are_no_squares() -> None:
    assert [layer_size(places, (12, 9)) for places in (108, 30, 9)] == [(12, 9), (6, 5), (3, 3)]
    with pytest.raises(ValueError, match="expected a layer of latents 12x9, found one of 50 places"):
        layer_size(50, (12, 9))
