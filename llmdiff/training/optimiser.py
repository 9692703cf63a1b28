"""AdamW under any ZeRO stage: a step that is not finite is left out, and the moments come and go as whole tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

MOMENTS = ("exp_avg", "exp_avg_sq")
LARGEST_SCALE, WINDOW = 2.0**16, 1000


class PlainAdamW(torch.optim.AdamW):
    """ZeRO 0's: as ZeRO's own optimisers do, it clips, tells the gradient's norm, and leaves out what is not finite."""

    def __init__(self, groups: Any, clip: float, **options: Any) -> None:
        super().__init__(groups, **options)
        self.clip = clip
        self.loss_scale = 1.0
        self.overflow = False  # this and the next are what DeepSpeed's engine looks at
        self._global_grad_norm = 0.0

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        grads = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        norm = float(nn.utils.get_total_norm(grads)) / self.loss_scale
        self._global_grad_norm, self.overflow = norm, not math.isfinite(norm)
        if self.overflow:
            return None
        divisor = self.loss_scale * (max(1.0, (norm + 1e-6) / self.clip) if self.clip else 1.0)
        if divisor != 1.0:
            torch._foreach_div_(grads, divisor)
        return super().step(closure)


class LossScale:
    """fp16's dynamic loss scale: halved by a step that overflows, doubled after `WINDOW` good ones; else it is 1."""

    def __init__(self, engine: Any, precision: str, value: float, good_steps: int) -> None:
        self.engine = engine
        self.dynamic = precision == "fp16"
        self.good_steps = good_steps
        self.set(value)

    @staticmethod
    def start(precision: str) -> float:
        return LARGEST_SCALE if precision == "fp16" else 1.0

    def set(self, value: float) -> None:
        self.value = value
        if isinstance(self.engine.optimizer, PlainAdamW):
            self.engine.optimizer.loss_scale = value
        elif self.dynamic:
            self.engine.optimizer.override_loss_scale(value)

    def backward(self, loss: Tensor) -> None:
        """Of a loss that is not finite, every gradient is NaN: one look at the norm tells all processes."""
        loss = loss * (loss.detach() * 0 + 1)
        self.engine.backward(loss * self.value if isinstance(self.engine.optimizer, PlainAdamW) else loss)

    def update(self, applied: bool) -> bool:
        """Takes note of a step; False where it failed and no smaller scale is left to try."""
        if applied:
            self.good_steps += 1
            if self.dynamic and self.good_steps % WINDOW == 0:
                self.set(self.value * 2)
            return True
        self.good_steps = 0
        if self.value <= 1.0:
            return False
        self.set(self.value / 2)
        return True


def moments(engine: Any, module: nn.Module) -> dict[str, Tensor]:
    """The optimiser's whole moments as ``name.exp_avg``, on the CPU of the first process; every process takes part."""
    if updates(engine) == 0:
        return {}
    link(engine)
    found = {}
    for name, parameter in trained(module):
        for key in MOMENTS:
            whole = get_moment(engine, parameter, key)
            if dist.get_rank() == 0:
                found[f"{name}.{key}"] = whole.cpu().contiguous()
    return found


def restore(engine: Any, module: nn.Module, tensors: dict[str, Tensor], count: int) -> None:
    """Gives an optimiser that has made no step yet the moments of `count` steps."""
    if count == 0:
        return
    for part in parts(engine):
        zeros = {key: torch.zeros_like(part) for key in MOMENTS}
        base(engine).state[part] = {"step": torch.tensor(float(count), device=part.device), **zeros}
    link(engine)
    for name, parameter in trained(module):
        for key in MOMENTS:
            set_moment(engine, parameter, key, tensors[f"{name}.{key}"])


def link(engine: Any) -> None:
    """Lets ZeRO 1 and 2 find the moments: by itself it looks once, when only the first group has made a step."""
    if hasattr(engine.optimizer, "_lazy_init_hp_params_optimizer_state"):
        engine.optimizer._hp_optimizer_states_linked = False
        engine.optimizer._lazy_init_hp_params_optimizer_state()


def updates(engine: Any) -> int:
    """Steps that the optimiser took."""
    return max((int(state["step"]) for state in base(engine).state.values() if "step" in state), default=0)


def trained(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The parameters that the optimiser has, by name."""
    return ((name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad)


def base(engine: Any) -> Any:
    """The torch optimiser below DeepSpeed's."""
    return engine.optimizer if isinstance(engine.optimizer, PlainAdamW) else engine.optimizer.optimizer


def parts(engine: Any) -> list[Tensor]:
    """What the torch optimiser steps on: parameters, or this process's share of them, flat."""
    if isinstance(engine.optimizer, PlainAdamW):
        return [parameter for group in engine.optimizer.param_groups for parameter in group["params"]]
    if engine.zero_optimization_stage() == 3:
        return list(engine.optimizer.fp32_partitioned_groups_flat)
    return list(engine.optimizer.single_partition_of_fp32_groups)


def get_moment(engine: Any, parameter: nn.Parameter, key: str) -> Tensor:
    """A parameter's whole moment, on every process."""
    from deepspeed.utils import safe_get_full_optimizer_state

    if isinstance(engine.optimizer, PlainAdamW):
        whole: Tensor = engine.optimizer.state[parameter][key]
        return whole
    return safe_get_full_optimizer_state(parameter, key)


def set_moment(engine: Any, parameter: Any, key: str, value: Tensor) -> None:
    """Takes this process's share of a parameter's whole moment."""
    from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

    if isinstance(engine.optimizer, PlainAdamW):
        engine.optimizer.state[parameter][key].copy_(value)
    elif engine.zero_optimization_stage() == 3:  # its "full" one fails where the processes don't divide a parameter
        size = parameter.ds_tensor.ds_numel
        padded = F.pad(value.flatten(), (0, size * dist.get_world_size() - value.numel()))
        safe_set_local_optimizer_state(parameter, padded.narrow(0, size * dist.get_rank(), size), key)
    else:
        safe_set_full_optimizer_state(parameter, value, key)
