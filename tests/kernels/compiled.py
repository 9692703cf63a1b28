"""What the Langevin kernel compiles to, which needs no GPU: ``python -m tests.kernels.compiled`` prints it as JSON.

A process of its own, for the tests' own has Triton's interpreter set.
"""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from kernels.langevin.triton_impl import langevin_kernel, warps

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
SWITCHES = ("HAS_ALSO", "HAS_MINUS", "HAS_SOURCE", "HAS_NOISE", "ACCUMULATE")
WIDTH = 2048
CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
KINDS = {"p_c": "*fp32", "p_source": "*i32", "p_position": "*i32", "p_caption": "*i64"}
SCALARS = {"g": "fp32", "sigma": "fp32", "seed": "i64"}


def main() -> None:
    """Everything off and everything on for each target; each switch alone for one of them."""
    found = [
        facts(name, on, out_dtype)
        for name in TARGETS
        for on, out_dtype in [((), "bf16"), ((), "fp32"), (SWITCHES, "bf16"), (SWITCHES, "fp32")]
    ]
    print(json.dumps(found + [facts("sm_90", (switch,), "fp32") for switch in SWITCHES]))


def facts(name: str, on: tuple[str, ...], out_dtype: str) -> dict[str, Any]:
    """Compile for one target with some switches on, as a launch with aligned pointers and strides would."""
    target, names = TARGETS[name], langevin_kernel.arg_names
    kinds = {argument: kind(argument, out_dtype) for argument in names}
    aligned = [i for i, argument in enumerate(names) if argument.startswith(("p_", "s_")) or argument == "hidden"]
    source = ASTSource(
        langevin_kernel,
        kinds,
        constexprs={"BLOCK": WIDTH, "GROUP_BITS": 20, **{switch: switch in on for switch in SWITCHES}},
        attrs={(i,): [["tt.divisibility", 16]] for i in aligned},
    )
    compiled = triton.compile(source, target=target, options={"num_warps": warps(WIDTH, target.warp_size)})
    read = of_nvidia if target.backend == "cuda" else of_amd
    return {"target": name, "on": on, "out": out_dtype, **offsets(compiled.asm["ttir"]), **read(compiled.asm)}


def kind(name: str, out_dtype: str) -> str:
    """The type of an argument of the kernel."""
    if name.startswith("p_"):
        return f"*{out_dtype}" if name == "p_out" else KINDS.get(name, "*bf16")
    return "constexpr" if name.isupper() else SCALARS.get(name, "i32")


def offsets(ttir: str) -> dict[str, list[str]]:
    """The pointers that a number of so many bits is added to."""
    return {
        f"offsets_{bits}": sorted(re.findall(rf"tt.addptr %(p_\w+), %\w+ : !tt.ptr<\w+>, i{bits}", ttir))
        for bits in (32, 64)
    }


def of_nvidia(asm: dict[str, Any]) -> dict[str, Any]:
    """Memory instructions of the PTX; of the machine code what a thread keeps outside registers: stack and local."""
    ptx = asm["ptx"]
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(asm["cubin"])
        file.flush()
        command = [str(CUOBJDUMP), "--dump-resource-usage", file.name]
        usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {
        "memory": re.findall(r"\b((?:ld|st)\.(?:global|local)[\w.:]*)", ptx),
        "products": len(re.findall(r"mul\.(?:wide|hi)\.u32", ptx)),
        "spilt": sum(int(number) for number in re.findall(r"(?:STACK|LOCAL):(\d+)", usage)),
        "registers": int(re.findall(r"REG:(\d+)", usage)[0]),
        "bytes": len(asm["cubin"]),
    }


def of_amd(asm: dict[str, Any]) -> dict[str, Any]:
    """Return the figures of AMD's assembly: scratch memory and spilt registers."""
    text = asm["amdgcn"]
    spilt = re.findall(r"\.(?:private_segment_fixed_size|sgpr_spill_count|vgpr_spill_count): *(\d+)", text)
    return {
        "memory": re.findall(r"\b((?:global|buffer|flat|scratch)_(?:load|store)_\w+)", text),
        "products": len(re.findall(r"v_(?:mul_hi|mad_u64)_u32", text)),
        "spilt": sum(int(number) for number in spilt),
        "registers": int(re.findall(r"\.vgpr_count: *(\d+)", text)[0]),
        "bytes": len(asm["hsaco"]),
    }


if __name__ == "__main__":
    main()
