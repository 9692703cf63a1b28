"""The settings of a run of ``benchmarks/train.py``, and where its rows go."""

from __future__ import annotations

import argparse
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from common.measure import RESULTS, append_row, device_name, load, quantiles
from llmdiff.training import TrainConfig

WIDTH, TOKENS = 2048, 77  # Phi-1.5's hidden size; as long as CLIP's context
CAPTION = 40  # tokens: the mean of PartiPrompts and DPG-Bench
PACKAGES = ("torch", "diffusers", "deepspeed", "transformers")
GB = 1e9


class Bench:
    """The settings of a run, and where its rows go."""

    def __init__(self, arguments: argparse.Namespace, work: Path) -> None:
        self.quick: bool = arguments.quick
        self.rounds: int = arguments.rounds
        self.threads: int = arguments.threads
        self.blocks: int = arguments.blocks
        self.batches: list[int] = arguments.batch
        self.steps: list[str] = arguments.step
        self.base_contexts: list[str] = arguments.base_context
        self.data: Path = arguments.data
        self.results: Path | None = arguments.results or (None if self.quick else RESULTS)
        self.work = work
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.name = "a small U-Net" if self.quick else "SD 1.5"

    def add(
        self, what: str, setting: str, value: float | str, unit: str, ratio: float | str = "", goal: str = ""
    ) -> None:
        """Add a row; the goal is for the ratio where there is one."""
        row = {
            "device": device_name(self.device),
            "versions": " ".join(f"{name}-{version(name)}" for name in PACKAGES if find_spec(name)),
            "load": load(),
            "what": what,
            "setting": setting,
            "value": value,
            "unit": unit,
            "ratio": ratio,
            "goal": goal,
        }
        if self.results is None:
            print(", ".join(f"{key} {row[key]}" for key in list(row)[3:] if row[key] != ""), flush=True)
        else:
            append_row("train", row, self.results)

    def run(self, name: str, **settings: Any) -> TrainConfig:
        """Return the configuration of a real run; the base and the store are made when first asked for."""
        from common.real_training import make_store, save_base  # needs the store's packages, which other parts do not

        side = settings.pop("side", 16)
        base = self.work / "base"
        if not base.exists():
            save_base(base, self.quick)
        store = self.work / f"store-{side}"
        key = store.with_suffix(".txt")
        if not store.exists():
            key.write_text(make_store(store, 64, side, WIDTH, [12, 20, 77, 31]))
        paths = {"store": str(store), "base": str(base), "output": str(self.work / name)}
        defaults = {"batch_size": 1, "log_every": 1, "checkpoint_every": 10_000, "threads": 2, "warmup": 0}
        return TrainConfig(**{**paths, "fingerprint": key.read_text(), **defaults, **settings})


def ratio_of(ours: list[float], others: list[float]) -> tuple[float, str]:
    """Return the median of the rounds' ratios, and how they spread, in words."""
    p20, p50, p80 = quantiles([one / other for one, other in zip(ours, others, strict=True)])
    return p50, f"ratio {p20:.3f} to {p80:.3f} (p20, p80) in {len(ours)} rounds"
