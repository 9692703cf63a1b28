"""Eq. 9 in ComfyUI's U-Net: one patch before each frozen cross-attention, and one after it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Self

import torch
from torch import Tensor

from llmdiff.adapter import LLMAdapter
from llmdiff.adapter.attention import LayerAdapter, padding_bias

from .prompts import MARK, Adapter
from .unet import BlockAddress, cross_attentions

NAME = "llmdiff"


def patched(model: Any, adapter: Adapter, scale: float) -> Any:
    """Return a clone of a MODEL with an adapter in it; `scale` goes from 1, as trained, to 0, the base model alone.

    Raises:
        ValueError: the MODEL holds an adapter already, or is none that this adapter goes into.
    """
    from comfy.patcher_extension import WrappersMP

    if model.get_wrappers(WrappersMP.OUTER_SAMPLE, NAME):
        raise ValueError("the MODEL holds an LLMDiff adapter already: it takes one")
    attentions = cross_attentions(model)
    weights = LLMAdapter.load_for(adapter.folder, {path: shape for path, (_, shape) in attentions.items()})
    second = SecondAttentions(
        weights.eval().requires_grad_(False), {address: path for path, (address, _) in attentions.items()}, scale
    )
    model = model.clone()
    model.set_model_attn2_patch(second)
    model.set_model_attn2_output_patch(second.blend)
    model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, NAME, checking_conditionings(adapter))
    return model


class SecondAttentions:
    """An adapter's layers, called by ComfyUI for each transformer block.

    A conditioning carries its own context, so rows with and without a prompt may share a batch. What a block's two
    patches share lies in the options that ComfyUI makes for each block's run. This needs no ``attn2_replace``, which a
    block has one of: IP-Adapters and others may use it.
    """

    def __init__(self, adapter: LLMAdapter, paths: Mapping[BlockAddress, str], scale: float) -> None:
        self.layers = adapter.layers
        self.by_address = {address: adapter.layer(path) for address, path in paths.items()}
        self.use_original = adapter.config.paths != "new"
        self.scale = scale

    def __call__(
        self, hidden_states: Tensor, context: Tensor, value: Tensor, options: dict[str, Any]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Read the adapter's part of the context, before the frozen attention (ComfyUI's ``attn2_patch``).

        `hidden_states` are ``(batch, query, channel)``; `context` and `value`, one tensor, ``(batch, token, channel)``.
        """
        base, own = self.layer_at(options, hidden_states).split(context)
        options[NAME] = hidden_states, own
        return hidden_states, base, base

    def blend(self, original: Tensor, options: dict[str, Any]) -> Tensor:
        """Return both paths' sum ``(batch, query, channel)``, after the frozen attention (``attn2_output_patch``)."""
        hidden_states, own = options.pop(NAME)
        if self.scale == 0:
            return original
        layer = self.layer_at(options, hidden_states)
        return layer(original if self.use_original else None, (hidden_states, own, padding_bias(own)), self.scale)

    def layer_at(self, options: dict[str, Any], like: Tensor) -> LayerAdapter:
        """Return the layer of the block that runs, where and in the dtype that it computes in."""
        layer = self.by_address[*options["block"], options["block_index"]]
        if (layer.a.device, layer.a.dtype) != (like.device, like.dtype):
            self.layers.to(like.device, like.dtype)
        return layer

    def to(self, where: torch.device | torch.dtype | None) -> Self:
        """Follow the MODEL to a device, as ComfyUI asks; its weights' dtype may be none that one can compute in."""
        if isinstance(where, torch.device):
            self.layers.to(where)
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Share the weights between clones of the MODEL, which older versions of ComfyUI copy deeply."""
        return self


def checking_conditionings(adapter: Adapter) -> Callable[..., Any]:
    """Return a wrapper of ComfyUI's sampling that raises ValueError where a conditioning is not of the adapter."""
    checksum, tokens = adapter.checksum, adapter.context_tokens  # not the LLM, which the MODEL would keep in memory

    def check(executor: Any, *args: Any, **kwargs: Any) -> Any:
        for name, conditions in executor.class_obj.conds.items():
            for condition in conditions:
                check_condition(f"{name}: the MODEL holds an LLMDiff adapter", condition, checksum, tokens)
        return executor(*args, **kwargs)

    return check


def check_condition(what: str, condition: Mapping[str, Any], checksum: str, tokens: int | None) -> None:
    """Raise ValueError where one condition is not of the adapter, or its context no longer of so many tokens."""
    if condition.get(MARK) != checksum:
        found = "another adapter's" if MARK in condition else "one that no adapter made"
        expected = "expected the conditioning of LLMDiff Encode Prompt with that adapter"
        raise ValueError(f"{what}: {expected}, found {found}")
    if tokens is not None and (found_tokens := condition["cross_attn"].shape[1]) != tokens:
        raise ValueError(
            f"{what}: expected a context of {tokens} tokens, found {found_tokens}: text features lead it, so "
            "conditionings of several texts can't be concatenated"
        )
