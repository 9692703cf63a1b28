"""Options that several commands share."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

CANDIDATE = "models:/llmdiff-adapter@candidate"


class Scheduler(StrEnum):
    """The samplers of `generate`."""

    ddim = "ddim"
    dpm = "dpm++"
    euler = "euler"
    euler_a = "euler-a"
    lcm = "lcm"
    pndm = "pndm"
    unipc = "unipc"


class DType(StrEnum):
    """Floating-point types."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


Adapter = Annotated[str, typer.Option(help="Adapter folder, or a version in the registry.")]
AdapterLLM = Annotated[str | None, typer.Option(help="Folder or name of the adapter's LLM; default: as registered.")]
AdapterBase = Annotated[
    str | None, typer.Option("--diffusion", help="Folder or name of the base model; default: the one trained on.")
]
