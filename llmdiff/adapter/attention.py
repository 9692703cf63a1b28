"""The two cross-attentions of Eq. 9 in one layer of the U-Net, as a diffusers attention processor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from llmdiff.adapter.config import AdapterConfig
from llmdiff.model_files.base_kinds import check_unet

PLACES = {"down_blocks": 0, "mid_block": 1, "up_blocks": 2}  # a U-Net registers its blocks in another order
MASKED = -10000.0  # finite, so that a context of padding alone gives zeros, and small enough for fp16


@dataclass(frozen=True, kw_only=True)
class LayerShape:
    """The widths of one cross-attention."""

    query_dim: int
    inner_dim: int
    context_dim: int
    out_dim: int
    heads: int


def cross_attention_shapes(unet: UNet2DConditionModel) -> dict[str, LayerShape]:
    """Return a U-Net's cross-attentions by module path, from its input on; ValueError where it takes no adapter."""
    check_unet(unet.config)
    named = sorted(unet.named_modules(), key=lambda item: PLACES.get(item[0].split(".")[0], 0))  # a stable sort
    layers = {name: module for name, module in named if is_cross_attention(module)}
    if not layers:
        raise ValueError("the U-Net has no cross-attention: expected a UNet2DConditionModel with CrossAttn blocks")
    for name, attn in layers.items():
        if attn.added_kv_proj_dim is not None or attn.norm_q is not None or attn.norm_k is not None:
            raise ValueError(f"{name}: expected a plain cross-attention, found added or normalised keys")
    shapes = {name: shape_of(attn) for name, attn in layers.items()}
    widths = {shape.context_dim for shape in shapes.values()}
    if len(widths) > 1:
        raise ValueError(f"expected one cross-attention width, found {sorted(widths)}: one phi can't serve them all")
    return shapes


def is_cross_attention(module: nn.Module) -> bool:
    """Return whether a module is a cross-attention to the text, in any of diffusers' forms."""
    return isinstance(module, Attention) and (module.is_cross_attention or module.added_kv_proj_dim is not None)


def shape_of(attn: Attention) -> LayerShape:
    """Return the widths of a diffusers attention."""
    return LayerShape(
        query_dim=attn.query_dim,
        inner_dim=attn.inner_dim,
        context_dim=attn.cross_attention_dim,
        out_dim=attn.out_dim,
        heads=attn.heads,
    )


class MultiHeadAttention(nn.Module):
    """Attention to a context: the second term of Eq. 9, ``attn(q, k(phi(c)), v(phi(c)))``, and a refiner's."""

    def __init__(self, shape: LayerShape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.to_q = nn.Linear(shape.query_dim, shape.inner_dim, bias=False)
        self.to_k = nn.Linear(shape.context_dim, shape.inner_dim, bias=False)
        self.to_v = nn.Linear(shape.context_dim, shape.inner_dim, bias=False)
        self.to_out = nn.Linear(shape.inner_dim, shape.out_dim)

    @torch.no_grad()
    def copy(self, attn: Attention) -> None:
        """Copy the original attention's weights; where it lacks a bias, start from zeros."""
        self.to_q.weight.copy_(attn.to_q.weight)
        self.to_k.weight.copy_(attn.to_k.weight)
        self.to_v.weight.copy_(attn.to_v.weight)
        self.to_out.weight.copy_(attn.to_out[0].weight)
        if attn.to_out[0].bias is None:
            self.to_out.bias.zero_()
        else:
            self.to_out.bias.copy_(attn.to_out[0].bias)

    def forward(self, hidden_states: Tensor, context: Tensor, bias: Tensor) -> Tensor:
        query = self.split_heads(self.to_q(hidden_states))  # (b, h, l, d)
        key = self.split_heads(self.to_k(context))  # (b, h, t, d)
        value = self.split_heads(self.to_v(context))  # (b, h, t, d)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias.to(query.dtype).unsqueeze(1))
        return self.to_out(mixed.transpose(1, 2).flatten(2))

    def split_heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class BandGate(nn.Module):
    """One layer's mixture of an encoding's bands: a softmax over logits, the same at every timestep.

    It follows Semantic routing (arXiv 2602.03510). It mixes what `phi` has projected, which is the same as projecting
    the mixture, for that is linear: so `phi` runs once for all layers.
    """

    def __init__(self, bands: int) -> None:
        super().__init__()
        self.bands = bands
        self.logits = nn.Parameter(torch.zeros(bands))

    def weights(self) -> Tensor:
        """Return each band's share ``(band,)``, float32."""
        return self.logits.float().softmax(0)

    def forward(self, context: Tensor) -> Tensor:
        """Mix ``(batch, token, band * channel)`` to ``(batch, token, channel)``; padding stays rows of zeros."""
        banded = context.unflatten(-1, (self.bands, -1))  # (b, t, k, d)
        return (self.weights().to(context.dtype).unsqueeze(0) @ banded).squeeze(-2)  # einsum would copy first


class LayerAdapter(nn.Module):
    """The trained parts of one layer: the new attention, the weights ``a e^b`` of both paths, and the bands' gate."""

    def __init__(self, shape: LayerShape, config: AdapterConfig) -> None:
        super().__init__()
        self.new = MultiHeadAttention(shape) if config.paths != "original" else None
        start = [config.original_weight, config.new_weight]
        self.a = nn.Parameter(torch.tensor(start), requires_grad=config.learn_weights)
        self.b = nn.Parameter(torch.zeros(2), requires_grad=config.learn_weights)
        self.gate = BandGate(config.bands) if config.band_gates else None
        self.base_tokens, self.base_width = config.base_tokens, config.context_dim

    def split(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Return the parts of a context that the original and the new path read, ``(batch, token, channel)`` each."""
        own = context[:, self.base_tokens :]
        if self.gate is not None:
            own = self.gate(own)
        return context[:, : self.base_tokens, : self.base_width] if self.base_tokens else own, own

    def weights(self, scale: float = 1.0) -> Tensor:
        """Return ``(a1 e^b1, a2 e^b2)``; a `scale` below 1 leads back to ``(1, 0)``, the original attention alone."""
        weights = self.a * self.b.exp()
        if scale == 1.0:
            return weights
        return torch.lerp(torch.tensor([1.0, 0.0]).to(weights), weights, scale)

    def forward(self, original: Tensor | None, new_inputs: tuple[Tensor, Tensor, Tensor], scale: float) -> Tensor:
        """Return Eq. 9; `original` is the frozen attention's output ``(batch, query, channel)``, or None without it."""
        w_original, w_new = self.weights(scale).unbind()
        if self.new is None:
            assert original is not None
            return original * w_original
        new = self.new(*new_inputs) * w_new
        return new if original is None else original * w_original + new


class AdapterProcessor:
    """Takes the place of a cross-attention's processor and calls it for the original path.

    The context ``(batch, token, channel)`` holds the base model's own text features first (where `base_tokens` is not
    0), then ``phi(c)``; there, a row of zeros is padding. So one tensor carries features and mask through any pipeline.
    With `band_gates` a row holds ``phi`` of every band side by side, and text features have zeros behind them.

    It is no module: the U-Net's state dict, and what walks the U-Net's layers (LoRA, offloading), pass the adapter by.
    """

    def __init__(self, layer: LayerAdapter, original: Callable[..., Tensor], config: AdapterConfig) -> None:
        self.layer = layer
        self.original = original
        self.scale = 1.0
        self.base_tokens = config.base_tokens
        self.use_original = config.paths != "new"

    def install(self, attn: Attention) -> None:
        """Go into an attention, and stay there when attention slicing or its like set another processor."""
        attn.set_processor(self)
        attn.set_processor = self.take

    def uninstall(self, attn: Attention) -> None:
        """Leave the attention, with the processor that it would have by now without the adapter."""
        del attn.set_processor
        attn.set_processor(self.original)

    def take(self, processor: Callable[..., Tensor]) -> None:
        """Stand in for the attention's own `set_processor`: it is the original path's processor that changes."""
        if processor is not self:  # skip one's own, which a caller read and sets again
            self.original = processor

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        if not isinstance(encoder_hidden_states, Tensor):
            raise ValueError("expected one context, found several: an adapter and an IP-Adapter can't share a U-Net")
        base, context = self.layer.split(encoder_hidden_states)
        bias = padding_bias(context)  # (b, 1, t)
        base_bias = None
        if attention_mask is not None:
            base_bias, given = attention_mask[..., : self.base_tokens], attention_mask[..., self.base_tokens :]
            bias = bias + given
        if self.base_tokens == 0:
            base_bias = bias
        original = None
        if self.use_original or self.scale == 0:
            original = self.original(attn, hidden_states, encoder_hidden_states=base, attention_mask=base_bias)
            if self.scale == 0:
                return original
        return self.layer(original, (hidden_states, context, bias), self.scale)


def padding_bias(context: Tensor) -> Tensor:
    """Return the bias ``(batch, 1, token)`` of a context: 0 for a token, very negative for a row of zeros."""
    largest = context.detach().abs().amax(-1)  # six times faster on a CPU than (context == 0).all(-1)
    return ((largest == 0) * MASKED).to(context.dtype).unsqueeze(1)
