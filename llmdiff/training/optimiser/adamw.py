"""AdamW under any ZeRO stage: skip steps that are not finite, and save and restore moments as whole tensors.

Under ZeRO 0 the moments may be of 8 bits, see `llmdiff.training.optimiser.adamw_8bit`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from llmdiff.training.optimiser import deepspeed_internals as internals
from llmdiff.training.optimiser.adamw_8bit import is_8bit, loaded, saved
from llmdiff.training.optimiser.zero_stage_0 import ZeroStage0Optimizer

MOMENTS = ("exp_avg", "exp_avg_sq")
LARGEST_SCALE, WINDOW = 2.0**16, 1000


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
        if is_zero_stage_0(self.engine):
            self.engine.optimizer.loss_scale = value
        elif self.dynamic:
            internals.set_loss_scale(self.engine, value)

    def backward(self, loss: Tensor) -> None:
        """Run the backward pass; a loss that is not finite makes all gradients NaN, so that every process sees it."""
        loss = loss * (loss.detach() * 0 + 1)
        self.engine.backward(loss * self.value if is_zero_stage_0(self.engine) else loss)

    def update(self, applied: bool) -> bool:
        """Record a step, finite or not; return False where it failed and no smaller scale is left to try."""
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
    """Return the optimiser's whole moments as ``name.exp_avg`` on the first process's CPU; every process takes part."""
    if updates(engine) == 0:
        return {}
    internals.link_moments(engine)
    found: dict[str, Tensor] = {}
    for name, parameter in trained(module):
        for key in MOMENTS:
            whole = get_moment(engine, parameter, key)
            if dist.get_rank() == 0:
                found |= {f"{name}.{key}{part}": tensor.cpu().contiguous() for part, tensor in saved(whole).items()}
    return found


def restore(engine: Any, module: nn.Module, tensors: dict[str, Tensor], count: int) -> None:
    """Set the moments of `count` steps in an optimiser that has made no step yet."""
    if count == 0:
        return
    if is_8bit(engine.optimizer):
        for name, parameter in trained(module):
            found = {key: loaded(tensors, f"{name}.{key}", key == "exp_avg", parameter) for key in MOMENTS}
            engine.optimizer.state[parameter] = {"step": torch.tensor(float(count)), **found}
        return
    for part in parts(engine):
        zeros = {key: torch.zeros_like(part) for key in MOMENTS}
        base(engine).state[part] = {"step": torch.tensor(float(count), device=part.device), **zeros}
    internals.link_moments(engine)
    for name, parameter in trained(module):
        for key in MOMENTS:
            set_moment(engine, parameter, key, tensors[f"{name}.{key}"])


def updates(engine: Any) -> int:
    """Return how many steps the optimiser took."""
    return max((int(state["step"]) for state in base(engine).state.values() if "step" in state), default=0)


def trained(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Return the parameters that the optimiser has, by name."""
    return ((name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad)


def base(engine: Any) -> Any:
    """Return the torch optimiser below DeepSpeed's."""
    return engine.optimizer if is_zero_stage_0(engine) else internals.inner_optimiser(engine)


def parts(engine: Any) -> list[Tensor]:
    """Return the tensors that the torch optimiser steps on: parameters, or this process's share of them, flat."""
    if is_zero_stage_0(engine):
        return [parameter for group in engine.optimizer.param_groups for parameter in group["params"]]
    return internals.flat_parts(engine)


def get_moment(engine: Any, parameter: nn.Parameter, key: str) -> Tensor:
    """Return a parameter's whole moment, on every process."""
    if is_zero_stage_0(engine):
        whole: Tensor = engine.optimizer.state[parameter][key]
        return whole
    return internals.get_moment(parameter, key)


def set_moment(engine: Any, parameter: nn.Parameter, key: str, value: Tensor) -> None:
    """Set this process's share of a parameter's moment from the whole moment."""
    if is_zero_stage_0(engine):
        engine.optimizer.state[parameter][key].copy_(value)
    else:
        internals.set_moment(engine, parameter, key, value)


def is_zero_stage_0(engine: Any) -> bool:
    """Return whether the engine's optimiser is that of ZeRO stage 0, with nothing of DeepSpeed around it."""
    return isinstance(engine.optimizer, ZeroStage0Optimizer)
