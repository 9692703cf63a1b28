"""Every private name of DeepSpeed that training uses, held against the installed version."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import pytest
import torch
from torch import nn

from llmdiff.training.distributed import join
from llmdiff.training.optimiser import deepspeed_internals as internals
from llmdiff.training.optimiser.zero_stage_0 import ZeroStage0AdamW

deepspeed = pytest.importorskip("deepspeed")
WHAT = f"DeepSpeed {deepspeed.__version__} changed what llmdiff.training.optimiser.deepspeed_internals relies on: "


class Model(nn.Module):
    """A matrix and a vector, so that there are two groups."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        loss: torch.Tensor = self.layer(x).square().mean()
        return loss


def engine_of(stage: int, **zero: Any) -> Any:
    """An engine under a ZeRO stage that has made one step."""
    join()
    torch.manual_seed(0)
    model = Model()
    groups = [{"params": [model.layer.weight]}, {"params": [model.layer.bias]}]
    optimiser = ZeroStage0AdamW(groups, 0.0, lr=1e-2) if stage == 0 else torch.optim.AdamW(groups, lr=1e-2)
    config = {
        "train_micro_batch_size_per_gpu": 2,
        # Its own linear layer would stay in `torch.nn.functional`, with other last digits in every later test.
        "zero_optimization": {"stage": stage, "memory_efficient_linear": False, **zero},
        "zero_allow_untested_optimizer": True,
    }
    engine = deepspeed.initialize(model=model, optimizer=optimiser, config=config)[0]
    engine.backward(engine(torch.ones(2, 3)))
    engine.step()
    return engine


def test_the_shared_memory_all_reduce_is_left_out() -> None:
    assert internals.SHARED_MEMORY in deepspeed.ops.__compatible_ops__, (
        f"{WHAT}no {internals.SHARED_MEMORY} in deepspeed.ops.__compatible_ops__"
    )
    internals.leave_out_shared_memory()
    assert deepspeed.ops.__compatible_ops__[internals.SHARED_MEMORY] is False


def test_muon_is_not_compiled() -> None:
    assert hasattr(importlib.import_module(internals.COMPILER), "compile"), f"{WHAT}no {internals.COMPILER}.compile"
    engine_of(1)
    found = sys.modules.get(internals.MUON)
    assert found is not None, f"{WHAT}no {internals.MUON}, or no engine imports it: it need not be left uncompiled"
    assert not hasattr(found.muon_update, "_torchdynamo_orig_callable"), f"{WHAT}{internals.MUON} is compiled otherwise"


def test_an_engine_reads_what_a_plain_optimiser_leaves() -> None:
    engine = engine_of(0)
    before = engine.optimizer.state[engine.module.layer.weight]["exp_avg"].clone()
    engine.backward(engine(torch.full((2, 3), torch.inf)))
    engine.step()
    assert not engine.was_step_applied(), f"{WHAT}the engine does not read optimizer.{internals.OVERFLOW}"
    assert torch.equal(engine.optimizer.state[engine.module.layer.weight]["exp_avg"], before)
    engine.backward(engine(torch.ones(2, 3)))
    engine.step()
    norm = getattr(engine.optimizer, internals.NORM)
    assert norm > 0
    assert float(engine.get_global_grad_norm()) == norm, f"{WHAT}the engine does not read optimizer.{internals.NORM}"


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_parts_and_moments_of_zero(stage: int) -> None:
    engine = engine_of(stage)
    name = internals.PARTS[stage]
    assert hasattr(engine.optimizer, name), f"{WHAT}ZeRO {stage}'s optimiser has no {name}"
    inner = internals.inner_optimiser(engine)
    assert isinstance(inner, torch.optim.AdamW), f"{WHAT}ZeRO {stage}'s optimiser has no torch optimiser inside"
    parts = internals.flat_parts(engine)
    assert sum(part.numel() for part in parts) >= 20, f"{WHAT}{name} does not hold all parameters"
    assert all(part in inner.state for part in parts), f"{WHAT}the torch optimiser does not step on {name}"
    if stage < 3:
        for needed in (internals.LINK, internals.LINKED):
            assert hasattr(engine.optimizer, needed), f"{WHAT}ZeRO {stage}'s optimiser has no {needed}"
    else:
        assert len(internals.placed(engine.module.parameters())) == 2, f"{WHAT}parameters have no {internals.PLACED}"
    internals.link_moments(engine)
    for parameter in engine.module.parameters():
        shape = parameter.ds_shape if stage == 3 else parameter.shape
        value = torch.arange(float(shape.numel())).reshape(shape)
        internals.set_moment(engine, parameter, "exp_avg", value)
        found = internals.get_moment(parameter, "exp_avg")
        assert torch.equal(found.reshape(shape), value), f"{WHAT}a moment is not read as it was written"


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_the_loss_scale_of_zero_can_be_set(stage: int) -> None:
    engine = engine_of(stage)
    assert hasattr(engine.optimizer, "override_loss_scale"), f"{WHAT}ZeRO {stage} has no override_loss_scale"
    internals.set_loss_scale(engine, 32.0)
    assert engine.optimizer.loss_scale == 32.0, f"{WHAT}override_loss_scale of ZeRO {stage} does not set loss_scale"


@pytest.mark.parametrize("stage", [1, 2])
def test_one_process_has_the_same_step_without_scattering_gradients(stage: int) -> None:
    one, other = (engine_of(stage, reduce_scatter=scatter).module.state_dict() for scatter in (True, False))
    assert all(torch.equal(one[name], other[name]) for name in one)
