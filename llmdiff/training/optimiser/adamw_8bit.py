"""AdamW with moments of 8 bits (arXiv 2110.02861), by torchao: codes, and a float32 scale for every 256 of them.

A moment is saved as its codes and scales, for these do not follow from the numbers that they stand for: a block whose
largest number is negative would be scaled anew each time. Small tensors keep moments of 32 bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from llmdiff.extras import require_for
from llmdiff.training.optimiser.zero_stage_0 import ZeroStage0Optimizer

CODES, SCALE = ".codes", ".scale"
"""Endings of the names under which a moment's two tensors are saved."""


def zero_stage_0_adamw_8bit(groups: Any, clip: float, **options: Any) -> ZeroStage0Optimizer:
    """Return the optimiser; raise ModuleNotFoundError without torchao."""
    require_for("torchao", "optimizer 'adamw_8bit'")
    from torchao.optim import AdamW8bit

    class ZeroStage0AdamW8bit(ZeroStage0Optimizer, AdamW8bit):
        """AdamW of torchao with moments of 8 bits, as an optimiser of ZeRO stage 0."""

        eight_bit = True

    return ZeroStage0AdamW8bit(groups, clip, **options)


def set_rate(group: dict[str, Any], rate: float) -> None:
    """Give a group of parameters a learning rate, which torchao keeps as a tensor."""
    if isinstance(group["lr"], Tensor):
        group["lr"].fill_(rate)
    else:
        group["lr"] = rate


def is_8bit(optimiser: Any) -> bool:
    """Return whether an optimiser has moments of 8 bits."""
    return isinstance(optimiser, ZeroStage0Optimizer) and optimiser.eight_bit


def saved(moment: Any) -> dict[str, Tensor]:
    """Return the tensors of a moment by the endings of their names; a moment of 32 bits is one tensor."""
    return {CODES: moment.codes, SCALE: moment.scale} if hasattr(moment, "codes") else {"": moment}


def loaded(tensors: Mapping[str, Tensor], name: str, signed: bool, parameter: Tensor) -> Tensor:
    """Return a parameter's moment from the `tensors` of `saved`; the first moment is signed, the second is not."""
    if name in tensors:
        return tensors[name].to(parameter.device, copy=True)
    from torchao.optim.subclass_8bit import OptimState8bit

    codes, scale = tensors[name + CODES], tensors[name + SCALE]
    moment = OptimState8bit.zeros(
        codes.shape, signed, codes.numel() // scale.numel(), parameter.device, dtype=parameter.dtype
    )
    moment.codes.copy_(codes)
    moment.scale.copy_(scale)
    return moment
