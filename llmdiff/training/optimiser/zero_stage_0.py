"""The optimisers of ZeRO stage 0, where each process keeps all of them and DeepSpeed wraps nothing around them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from llmdiff.training.optimiser import deepspeed_internals as internals


class ZeroStage0Optimizer(torch.optim.Optimizer):
    """An optimiser of ZeRO 0: as those of other stages do, it clips, tells the norm and skips what overflows."""

    clip = 0.0
    """Norm to which the gradient is clipped; 0 is no clipping."""
    loss_scale = 1.0
    eight_bit = False
    """Whether moments are of 8 bits."""

    def __init__(self, groups: Any, clip: float, **options: Any) -> None:
        super().__init__(groups, **options)
        self.clip = clip
        internals.tell_engine(self, norm=0.0, overflow=False)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        grads = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        norm = float(nn.utils.get_total_norm(grads)) / self.loss_scale
        overflow = not math.isfinite(norm)
        internals.tell_engine(self, norm, overflow)
        if overflow:
            return None
        divisor = self.loss_scale * (max(1.0, (norm + 1e-6) / self.clip) if self.clip else 1.0)
        if divisor != 1.0:
            torch._foreach_div_(grads, divisor)
        return super().step(closure)


class ZeroStage0AdamW(ZeroStage0Optimizer, torch.optim.AdamW):
    """AdamW with moments of 32 bits."""
