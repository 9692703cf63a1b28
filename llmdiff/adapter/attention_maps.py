"""Record which tokens each place of a picture attended to: the maps of both cross-attentions, averaged."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from llmdiff.adapter.adapter import LLMAdapter
from llmdiff.adapter.attention import AdapterProcessor, padding_bias

NEW, ORIGINAL = "new", "original"


@dataclass
class AttentionMaps:
    """Maps of the last picture of every batch that a U-Net draws; with guidance, its prompt's."""

    size: tuple[int, int]
    """Height and width of the maps: those of the latents."""
    sums: dict[str, Tensor] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def mean(self, path: str) -> Tensor | None:
        """Return a path's shares ``(token, height, width)`` float32, of one at each place; None where none was seen.

        A token's share is averaged over heads, layers and steps, and for both paths over the tokens that the path
        reads: padding has none.
        """
        return self.sums[path] / self.counts[path] if path in self.sums else None

    def add(self, path: str, query: Tensor, key: Tensor, bias: Tensor) -> None:
        """Add one layer's attention at one step.

        Args:
            path: `NEW` or `ORIGINAL`.
            query: ``(head, place, channel)``, scaled.
            key: ``(head, token, channel)``.
            bias: ``(token,)`` that hides padding.
        """
        shares = (query.float() @ key.float().transpose(1, 2) + bias.float()).softmax(-1).mean(0)  # (l, t)
        height, width = layer_size(len(shares), self.size)
        layer = shares.T.unflatten(1, (height, width)).unsqueeze(0)  # (1, t, h, w)
        seen = F.interpolate(layer, self.size, mode="bilinear").squeeze(0).cpu()
        self.sums[path] = seen if path not in self.sums else self.sums[path] + seen
        self.counts[path] = self.counts.get(path, 0) + 1


@contextmanager
def recorded(adapter: LLMAdapter, size: tuple[int, int]) -> Iterator[AttentionMaps]:
    """Record what an adapter's U-Net attends to in this block, at about twice the cost of its cross-attentions.

    Args:
        adapter: installed in a U-Net.
        size: height and width of the latents.
    """
    maps = AttentionMaps(size)
    hooks = [
        attn.register_forward_pre_hook(partial(_record, maps, processor), with_kwargs=True)
        for attn, processor in adapter.processors
    ]
    try:
        yield maps
    finally:
        for hook in hooks:
            hook.remove()


def layer_size(places: int, size: tuple[int, int]) -> tuple[int, int]:
    """Return height and width of a layer with so many places: the latents' own, halved as often as it takes."""
    height, width = size
    while height * width > places:
        height, width = -(-height // 2), -(-width // 2)
    if height * width != places:
        raise ValueError(f"expected a layer of latents {size[0]}x{size[1]}, found one of {places} places")
    return height, width


@torch.no_grad()
def _record(
    maps: AttentionMaps, processor: AdapterProcessor, attn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    hidden = (args[0] if args else kwargs["hidden_states"])[-1]  # (l, d)
    base, context = processor.layer.split(kwargs["encoder_hidden_states"][-1:])
    if processor.use_original or processor.scale == 0:
        query, key = _heads(attn.to_q(hidden), attn.heads), _heads(attn.to_k(base[0]), attn.heads)
        bias = padding_bias(base)[0, 0] if processor.base_tokens == 0 else base.new_zeros(base.shape[1])
        maps.add(ORIGINAL, query * attn.scale, key, bias)
    new = processor.layer.new
    if new is not None and processor.scale != 0:
        query, key = _heads(new.to_q(hidden), new.heads), _heads(new.to_k(context[0]), new.heads)
        maps.add(NEW, query / query.shape[-1] ** 0.5, key, padding_bias(context)[0, 0])


def _heads(x: Tensor, heads: int) -> Tensor:
    """Return ``(row, head * channel)`` as ``(head, row, channel)``."""
    return x.unflatten(-1, (heads, -1)).transpose(0, 1)
