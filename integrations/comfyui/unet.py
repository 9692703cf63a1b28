"""The cross-attentions of ComfyUI's U-Net, under the names that they have in diffusers and so in an adapter."""

from __future__ import annotations

import re
from typing import Any

from llmdiff.adapter import LayerShape

BlockAddress = tuple[str, int, int]
"""Name that ComfyUI gives a transformer block while it runs: part of the U-Net, block in it, transformer in that."""
QUERY = ".attn2.to_q.weight"
BLOCK = re.compile(r"(?P<part>[a-z]+)_blocks?\.(?P<block>\d+)\..*?transformer_blocks\.(?P<index>\d+)\.attn2")


def cross_attentions(model: Any) -> dict[str, tuple[BlockAddress, LayerShape]]:
    """Return address and shape of each cross-attention of a MODEL, by its path in diffusers, from the input on.

    Raises:
        ValueError: the MODEL is no U-Net of Stable Diffusion, or reads its text in other layers, too.
    """
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
    from comfy.utils import unet_to_diffusers

    unet = model.model.diffusion_model
    if not isinstance(unet, UNetModel):
        raise ValueError(f"expected a MODEL of Stable Diffusion 1, 2 or XL, found {type(unet).__name__}")
    named = {
        path.removesuffix(".to_q.weight"): name.removesuffix(".to_q.weight")
        for path, name in unet_to_diffusers(model.model.model_config.unet_config).items()
        if path.endswith(QUERY)
    }
    found = {name for name, _ in unet.named_modules() if name.endswith(".attn2")}
    if not found or found != set(named.values()):
        odd = min(found ^ set(named.values()), default="no cross-attention")
        raise ValueError(f"expected a MODEL of Stable Diffusion 1, 2 or XL, found a U-Net with other layers: {odd}")
    return {path: (address_of(name), shape_of(unet.get_submodule(name))) for path, name in named.items()}


def address_of(name: str) -> BlockAddress:
    """Return the address of a module such as ``input_blocks.1.1.transformer_blocks.0.attn2``."""
    match = BLOCK.fullmatch(name)
    assert match is not None, name
    block = 0 if match["part"] == "middle" else int(match["block"])
    return match["part"], block, int(match["index"])


def shape_of(attn: Any) -> LayerShape:
    """Return the widths of a ``CrossAttention``."""
    return LayerShape(
        query_dim=attn.to_q.in_features,
        inner_dim=attn.to_q.out_features,
        context_dim=attn.to_k.in_features,
        out_dim=attn.to_out[0].out_features,
        heads=attn.heads,
    )
