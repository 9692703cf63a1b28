"""An exponential moving average of what is trained, in float32."""

from __future__ import annotations

import torch
from torch import Tensor


class EMA:
    """Follows the tensors of ``{name: tensor}``; early on it forgets faster, as ``(1 + step) / (10 + step)``."""

    def __init__(self, tensors: dict[str, Tensor], decay: float) -> None:
        self.decay = decay
        self.tensors = {name: tensor.detach().float().clone() for name, tensor in tensors.items()}

    @torch.no_grad()
    def update(self, tensors: dict[str, Tensor], step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.tensors.values()), [tensors[name].float() for name in self.tensors], 1 - decay)

    @torch.no_grad()
    def load(self, tensors: dict[str, Tensor]) -> None:
        for name, tensor in self.tensors.items():
            tensor.copy_(tensors[name])

    def to(self, device: torch.device) -> None:
        self.tensors = {name: tensor.to(device) for name, tensor in self.tensors.items()}
