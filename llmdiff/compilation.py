"""`torch.compile` of what computes most, where it is: no module gets another name, and so no tensor of a saved file.

Compiled code differs from the plain one by rounding. Code is made where it is first called, which takes up to minutes
on a GPU, and again for what it was not made for. Needs torch in functions alone, so a flow can ask for a compiler.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, TypeVar

from llmdiff.devices import device

if TYPE_CHECKING:
    from torch import nn

T = TypeVar("T")

MOST_SHAPES = 64
"""Most shapes that a function gets compiled code for; later shapes run uncompiled."""


def check_compiler() -> None:
    """Raise ValueError where this machine lacks the compiler that `torch.compile` needs: C++ on a CPU, C on a GPU."""
    if device() == "cpu":
        names = [os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")]
    else:
        names = [os.environ.get("CC") or "gcc", "clang"]
    if not any(map(shutil.which, names)):
        raise ValueError(f"torch_compile: expected the compiler {' or '.join(names)} on this machine, found none")


def compiled_for_training(function: Callable[..., T]) -> Callable[..., T]:
    """Return a function compiled so that a resumed run goes on bit by bit, as far as its kernels do.

    What code is made depends on a call's shapes alone, not on the calls before: none is made for shapes in general, and
    none is chosen by a stopwatch. So callers keep shapes few, as `llmdiff.adapter.padding.lengthen` does.
    """
    import torch

    make_room()
    return torch.compile(function, dynamic=False, options={"deterministic": True})


def compile_by_shape(module: nn.Module) -> None:
    """Compile a module in place, anew for each shape of what it is called with."""
    make_room()
    module.compile(dynamic=False)


def make_room() -> None:
    """Let torch keep compiled code for `MOST_SHAPES` shapes of a function."""
    import torch

    config = torch._dynamo.config
    config.recompile_limit = max(config.recompile_limit, MOST_SHAPES)


def uncompiled(where: bool = True) -> AbstractContextManager[object]:
    """Run compiled modules uncompiled inside the context: hooks are called, and no code is made."""
    import torch

    return torch.compiler.set_stance("force_eager") if where else nullcontext()
