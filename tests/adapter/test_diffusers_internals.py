"""Every private name of diffusers, accelerate and torch that adapters use, held against the installed versions."""

from __future__ import annotations

import accelerate
import diffusers
import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module
from diffusers.hooks import HookRegistry
from torch import nn

from llmdiff.adapter import diffusers_internals as internals
from tests.adapter import tiny

USED = "llmdiff.adapter.diffusers_internals relies on it"


def test_a_pipeline_says_where_it_computes() -> None:
    pipe = tiny.pipeline()
    assert hasattr(pipe, internals.DEVICE), f"diffusers {diffusers.__version__} has no {internals.DEVICE}: {USED}"
    assert internals.execution_device(pipe) == torch.device("cpu")


def test_a_module_that_accelerate_moves_shows() -> None:
    module = nn.Linear(1, 1)
    assert not internals.is_offloaded(module)
    add_hook_to_module(module, ModelHook())
    assert internals.is_offloaded(module), (
        f"accelerate {accelerate.__version__} has no {internals.OFFLOADING[0]}: {USED}"
    )


def test_a_module_that_diffusers_moves_shows() -> None:
    module = nn.Linear(1, 1)
    HookRegistry.check_if_exists_or_initialize(module)
    assert internals.is_offloaded(module), f"diffusers {diffusers.__version__} has no {internals.OFFLOADING[1]}: {USED}"


def test_buffers_that_stay_float32_are_moved_and_not_cast() -> None:
    outer, module = nn.Sequential(nn.Linear(1, 1)), internals.Float32Buffers()
    module.register_buffer("one", torch.ones(1))
    outer.append(module)
    for cast in (outer.half, outer.bfloat16, lambda: outer.to("meta", torch.float16)):
        cast()
        assert module.one.dtype == torch.float32, f"torch {torch.__version__} casts without Module._apply: {USED}"
    assert module.one.device.type == "meta", f"torch {torch.__version__} moves without Module._apply: {USED}"


@pytest.mark.xdist_group("torch.compile")
def test_a_compiled_module_gives_its_own_back() -> None:
    module = nn.Linear(1, 1)
    found = internals.not_compiled(torch.compile(module, backend="eager"))
    assert found is module, f"torch {torch.__version__} has no {internals.COMPILED}: {USED}"
    assert internals.not_compiled(module) is module


def test_a_compiled_module_shows() -> None:
    module = nn.Linear(1, 1)
    assert not internals.is_compiled(module)
    assert internals.is_compiled(torch.compile(module))
    module.compile()
    assert internals.is_compiled(module), f"torch {torch.__version__} has no {internals.COMPILED_CALL}: {USED}"
