"""Every figure that needs a GPU, from one command, in under ten minutes: parts in order of worth.

    python benchmarks/gpu.py                        # rows go to benchmarks/results/*.csv as soon as they are there
    python benchmarks/gpu.py --part "encode vicuna-7b" train
    python benchmarks/gpu.py --quick --results /tmp/gpu     # tiny sizes, on a CPU too

``gpu.csv`` says which parts are done on which device: the same command again goes on with the others. A part that
crashes or hangs ends its process, and the next one starts in a new one. Nothing is needed but torch, triton,
transformers, and what ``benchmarks/pack_gpu.py`` packs. Each part is one of the other benchmarks with these arguments.
"""

from __future__ import annotations

import argparse
import csv
import faulthandler
import gc
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 560
STATE = "gpu"


class Part(NamedTuple):
    """A benchmark's `main`, its arguments, and what makes it tiny."""

    script: str
    arguments: str
    quick: str = ""
    seconds: int = 90
    """Seconds after which the part is given up."""
    writes: bool = True
    """Whether the part takes a folder for its rows."""


ENCODE_QUICK = "--quick --blocks 1 --captions 4 --rounds 1 --max-tokens 16 --data none"
TRAIN_QUICK = "--quick --rounds 1 --blocks 1 --data none"
BLOCK = "--part text --word-path block"
PARTS = {
    "compare": Part("tests.kernels.compare", "cuda", seconds=120, writes=False),
    "kernel": Part("langevin_kernel", "--part step --rows 65536", "--rows 16 --hidden 64 --rounds 1"),
    "noise": Part("langevin_kernel", "--part noise --rows 65536", "--rows 2 --hidden 64 --rounds 1", 45),
    "encode phi-1.5": Part("encode", "--part text --shape phi-1.5 --captions 1024", ENCODE_QUICK),
    "encode vicuna-7b": Part("encode", "--part text --shape vicuna-7b --captions 384 --rounds 3", ENCODE_QUICK, 120),
    "train": Part("train", "--only gpu --step plain recomputed", f"{TRAIN_QUICK} --batch 1", 120),
    "adapter": Part("train", "--only forward", TRAIN_QUICK),
    "online": Part("train", "--only online", TRAIN_QUICK),
    "autoencoder": Part("autoencoder", "", "--quick --batch 1 --rounds 1"),
    "latency": Part("latency", "--rounds 5", "--quick --rounds 1"),
    "train, compiled": Part("train", "--only gpu --step compiled --batch 32", f"{TRAIN_QUICK} --batch 1", 150),
    "train, channels_last": Part("train", "--only gpu --step channels_last --batch 32", f"{TRAIN_QUICK} --batch 1"),
    "encode, compiled": Part("encode", f"{BLOCK} --shape phi-1.5 --captions 1024 --compiled", ENCODE_QUICK),
}


def main() -> None:
    arguments = parse()
    if arguments.here:
        for name in arguments.part:
            run_part(name, arguments)
        return
    if not (arguments.quick or torch_device().type == "cuda"):
        sys.exit("expected a GPU, found none; --quick tries the parts on a CPU")
    deadline = time.monotonic() + arguments.seconds
    parts = [name for name in arguments.part if name not in done(arguments.results)]
    while parts and (left := deadline - time.monotonic()) > 0:
        before = len(states(arguments.results))
        start_process(parts, arguments, left)
        tried = {row["part"] for row in states(arguments.results)[before:]}
        if not tried:
            break
        parts = [name for name in parts if name not in tried]
    missing = [name for name in arguments.part if name not in done(arguments.results)]
    print(f"not done: {', '.join(missing)}; the same command tries them again" if missing else "all parts are done")
    sys.exit(bool(missing))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--seconds", type=float, default=SECONDS, help="after which no part goes on")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results", help="folder of the rows")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to try the script")
    parser.add_argument("--here", action="store_true", help="in this process, whatever was done before")
    arguments = parser.parse_args()
    tracked = arguments.results == parser.get_default("results")
    if arguments.quick and tracked:
        parser.error("expected a folder of its own for rows of tiny sizes (--results), found the tracked one")
    return arguments


def start_process(parts: Sequence[str], arguments: argparse.Namespace, seconds: float) -> None:
    """Run parts one after the other in a process of its own, until one of them ends it or time is up."""
    command = [sys.executable, __file__, "--here", "--results", str(arguments.results), "--part", *parts]
    try:
        subprocess.run([*command, *["--quick"] * arguments.quick], timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        print(f"{arguments.seconds:g} s are over")


def run_part(name: str, arguments: argparse.Namespace) -> None:
    """Run one part and note how it went."""
    import torch

    on_gpu = torch_device().type == "cuda"
    if not on_gpu:
        os.environ["TRITON_INTERPRET"] = "1"  # before the kernel is first imported
    part = PARTS[name]
    given = part.arguments.split() if on_gpu or name != "compare" else ["cpu"]
    given += part.quick.split() if arguments.quick else []
    given += ["--results", str(arguments.results)] if part.writes else []
    for folder in (ROOT, ROOT / "benchmarks"):
        if str(folder) not in sys.path:
            sys.path.insert(0, str(folder))
    note(name, "started", arguments.results)
    start = time.monotonic()
    faulthandler.dump_traceback_later(part.seconds, exit=True)
    try:
        script = import_module(part.script)
        gc.collect()
        gc.freeze()  # benchmarks collect often, and what was imported stays
        script.main(given)
    except Exception as error:
        traceback.print_exc()
        note(name, "failed", arguments.results, time.monotonic() - start, f"{type(error).__name__}: {error}")
    else:
        note(name, "done", arguments.results, time.monotonic() - start)
    finally:
        faulthandler.cancel_dump_traceback_later()
        gc.collect()
        torch.cuda.empty_cache()


def note(part: str, state: str, results: Path, seconds: float = 0.0, error: str = "") -> None:
    """Add a row to the state of the parts."""
    from common.measure import append_row, device_name, versions

    row = {
        "device": device_name(torch_device()),
        "versions": versions(),
        "part": part,
        "state": state,
        "seconds": round(seconds, 1),
    }
    append_row(STATE, {**row, "error": " ".join(error.split())[:300]}, results)


def states(results: Path) -> list[dict[str, str]]:
    """Return what was noted of parts, the oldest first."""
    path = results / f"{STATE}.csv"
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def done(results: Path) -> set[str]:
    """Return the parts that are done on this device."""
    from common.measure import device_name

    device = device_name(torch_device())
    return {row["part"] for row in states(results) if row["state"] == "done" and row["device"] == device}


def torch_device() -> Any:
    """Return the GPU where there is one."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


if __name__ == "__main__":
    main()
