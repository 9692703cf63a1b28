"""Quantise an LLM's weights to 4 or 8 bits while it is loaded, and tell how a loaded model is quantised."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn

REPACKS = "support_avx512bf16_for_cpu"  # attribute of bitsandbytes' Linear4bit


class Method(NamedTuple):
    """A way to quantise."""

    package: str
    """Package of the method, which is also transformers' name for it."""
    words: str
    """Name of the method in an encoder's description."""
    settings: Callable[[torch.dtype], Any]
    """Function that returns transformers' configuration of the method for a dtype of the pass."""


def nf4(dtype: torch.dtype) -> Any:
    """Return bitsandbytes' settings of 4-bit normal floats in groups of 64 (Dettmers et al., arXiv 2305.14314)."""
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)


def int8(dtype: torch.dtype) -> Any:
    """Return torchao's settings of 8-bit integers, a scale for each row of a weight; activations stay as they are."""
    from torchao.quantization import Int8WeightOnlyConfig
    from transformers import TorchAoConfig

    return TorchAoConfig(Int8WeightOnlyConfig(version=2))


METHODS = {
    "4bit": Method("bitsandbytes", "bitsandbytes nf4", nf4),
    "8bit": Method("torchao", "torchao int8 weight-only", int8),
}


def quantization_of(config: Any) -> str | None:
    """Return transformers' name for the method that a model's weights are quantised by; None where they are not."""
    settings = getattr(config, "quantization_config", None)
    if settings is None:
        return None
    if isinstance(settings, dict):  # as a file has it; earlier versions of bitsandbytes wrote no name
        own = any(settings.get(name) for name in ("load_in_4bit", "load_in_8bit"))
        method = settings.get("quant_method") or ("bitsandbytes" if own else "an unnamed method")
    else:
        method = settings.quant_method
    return str(getattr(method, "value", method))


def keep_weights(model: nn.Module) -> None:
    """Keep bitsandbytes from repacking 4-bit weights when they are first used.

    On a CPU with AVX512-BF16 it rounds their scales to bfloat16 then: another LLM than was loaded, by another hash.
    """
    for module in model.modules():
        if hasattr(module, REPACKS):
            setattr(module, REPACKS, False)


def check_quantised(config: Any, quantization: str) -> None:
    """Raise ValueError where a loaded model's weights are not quantised as a setting says."""
    if quantization == "none":
        return
    wanted, found = METHODS[quantization], quantization_of(config)
    if found != wanted.package:
        raise ValueError(
            f"quantization is {quantization!r}; expected weights of {wanted.words}, as Encoder.from_pretrained makes "
            f"them, found {'none that are quantised' if found is None else found}"
        )
