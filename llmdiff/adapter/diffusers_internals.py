"""All private names of diffusers, accelerate and torch that an adapter needs, though they are not promised.

`tests/adapter/test_diffusers_internals.py` holds each of them against the installed versions, and names the one that a
new version changed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn

DEVICE = "_execution_device"
"""Attribute of a diffusers pipeline: where it computes, which for an offloaded one is not where its modules lie."""
OFFLOADING = ("_hf_hook", "_diffusers_hook")
"""Attributes that accelerate and diffusers set on a module that they move between devices."""
COMPILED = "_orig_mod"
"""Attribute of a module that `torch.compile` returned: the module itself."""
COMPILED_CALL = "_compiled_call_impl"
"""Attribute of a module that was compiled in place: what is called instead; else None."""


def execution_device(pipe: Any) -> torch.device:
    """Return where a pipeline computes."""
    device: torch.device = getattr(pipe, DEVICE)
    return device


def is_offloaded(module: nn.Module) -> bool:
    """Return whether accelerate or diffusers moves a module to where it computes, and away again."""
    return any(hasattr(module, hook) for hook in OFFLOADING)


def not_compiled(module: Any) -> Any:
    """Return the module inside a compiled one; return any other module as it is."""
    return getattr(module, COMPILED, module)


def is_compiled(module: nn.Module) -> bool:
    """Return whether `torch.compile` returned a module, or it was compiled in place."""
    return hasattr(module, COMPILED) or getattr(module, COMPILED_CALL, None) is not None


class Float32Buffers(nn.Module):
    """A module whose buffers move with it, but stay float32 when it is cast: torch asks `_apply` for both."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        whole = dict(self.named_buffers(recurse=False))
        super()._apply(fn, recurse)
        for name, before in whole.items():
            setattr(self, name, before.to(getattr(self, name).device))
        return self
