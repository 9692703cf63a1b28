"""All private names of DeepSpeed that training needs, though DeepSpeed does not promise them.

`tests/training/test_deepspeed_internals.py` holds each of them against the installed version, and names the one that a
new version changed. An engine whose optimiser is a `ZeroStage0Optimizer` has none of DeepSpeed's own around it.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

SHARED_MEMORY = "deepspeed_shm_comm"
"""The compiled all-reduce of processes on one CPU, in DeepSpeed's table of operators."""
COMPILER, MUON = "deepspeed.runtime.compiler", "deepspeed.runtime.zero.muon.original_muon"
"""Module that wraps functions for torch.compile, and module of an optimiser with such functions."""
NORM, OVERFLOW = "_global_grad_norm", "overflow"
"""Attributes that an engine reads of an optimiser after a step: gradient norm, and whether it skipped the step."""
PLACED = "ds_id"
"""Attribute of a parameter that ZeRO 3 has partitioned."""
LINKED, LINK = "_hp_optimizer_states_linked", "_lazy_init_hp_params_optimizer_state"
"""Attributes of ZeRO 1's and 2's optimiser: whether parameters are linked to moments, and the call to link them."""
PARTS = {1: "single_partition_of_fp32_groups", 2: "single_partition_of_fp32_groups", 3: "fp32_partitioned_groups_flat"}
"""Attribute, by ZeRO stage, with the flat tensors that this process's optimiser steps on."""


def leave_out_shared_memory() -> None:
    """Keep DeepSpeed from compiling a shared-memory all-reduce at the first start on a CPU.

    That takes half a minute and a compiler, for a gradient that gloo reduces in milliseconds.
    """
    import deepspeed

    deepspeed.ops.__compatible_ops__[SHARED_MEMORY] = False


def leave_muon_uncompiled() -> None:
    """Import DeepSpeed's Muon, of which an engine only asks whether ours is one, without torch's compiler.

    That would be imported with it, which takes more than a second of each process.
    """
    compiler: Any = importlib.import_module(COMPILER)
    compile_function = compiler.compile
    compiler.compile = lambda: lambda function: function
    try:
        importlib.import_module(MUON)
    finally:
        compiler.compile = compile_function


def tell_engine(optimiser: torch.optim.Optimizer, norm: float, overflow: bool) -> None:
    """Set on an optimiser of our own what DeepSpeed's engine reads after a step."""
    setattr(optimiser, NORM, norm)
    setattr(optimiser, OVERFLOW, overflow)


def placed(parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    """Return the parameters of which ZeRO 3 keeps a part on each process."""
    return [parameter for parameter in parameters if hasattr(parameter, PLACED)]


def inner_optimiser(engine: Any) -> Any:
    """Return the torch optimiser inside ZeRO's."""
    return engine.optimizer.optimizer


def flat_parts(engine: Any) -> list[Tensor]:
    """Return the tensors that the torch optimiser inside ZeRO's steps on: this process's share of each group, flat."""
    return list(getattr(engine.optimizer, PARTS[engine.zero_optimization_stage()]))


def link_moments(engine: Any) -> None:
    """Link parameters to moments under ZeRO 1 and 2, which does it only once, when one group has made a step."""
    if hasattr(engine.optimizer, LINK):
        setattr(engine.optimizer, LINKED, False)
        getattr(engine.optimizer, LINK)()


def set_loss_scale(engine: Any, value: float) -> None:
    """Set the scale of the loss under ZeRO 1 to 3."""
    engine.optimizer.override_loss_scale(value)


def get_moment(parameter: nn.Parameter, key: str) -> Tensor:
    """Return a parameter's whole moment under ZeRO 1 to 3; every process takes part."""
    from deepspeed.utils import safe_get_full_optimizer_state

    return safe_get_full_optimizer_state(parameter, key)


def set_moment(engine: Any, parameter: Any, key: str, value: Tensor) -> None:
    """Give this process its share of a parameter's whole moment under ZeRO 1 to 3."""
    from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

    if engine.zero_optimization_stage() == 3:  # its "full" one fails where the processes don't divide a parameter
        size = parameter.ds_tensor.ds_numel
        padded = F.pad(value.flatten(), (0, size * dist.get_world_size() - value.numel()))
        safe_set_local_optimizer_state(parameter, padded.narrow(0, size * dist.get_rank(), size), key)
    else:
        safe_set_full_optimizer_state(parameter, value, key)
