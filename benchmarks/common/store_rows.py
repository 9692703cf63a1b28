"""Rows of store.csv, all with the same columns, and the table of a run."""

from __future__ import annotations

import operator
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from common.measure import RESULTS, append_row, device_name, quantiles

COMPARE = {">=": operator.ge, "<=": operator.le, "<": operator.lt}


class StoreResults:
    """Rows of store.csv, and the table at the end."""

    def __init__(self, append: bool, folder: Path = RESULTS) -> None:
        self.append, self.folder = append, folder
        self.rows: list[dict[str, Any]] = []
        self.device = device_name(torch.device("cpu"))
        names = ("zarr", "zarrs", "deltalake", "pyarrow", "numpy", "torch")
        self.versions = " ".join(f"{name}-{version(name)}" for name in names)

    def add(
        self,
        name: str,
        value: float,
        unit: str,
        *,
        width: int | str = "",
        prompts: str = "",
        captions: int | str = "",
        cache: str = "",
        peer: str = "",
        peer_value: float | str = "",
        ratios: Sequence[float] = (),
        goal: str = "",
        note: str = "",
    ) -> None:
        """Add a row; the goal is for the median ratio where there is one, and for the value where there is none."""
        p20, p50, p80 = quantiles(list(ratios)) if ratios else ("", "", "")
        row = {
            "device": self.device,
            "versions": self.versions,
            "name": name,
            "width": width,
            "prompts": prompts,
            "captions": captions,
            "cache": cache,
            "value": float(value),
            "unit": unit,
            "peer": peer,
            "peer_value": peer_value,
            "ratio_p20": p20,
            "ratio": p50,
            "ratio_p80": p80,
            "goal": goal,
            "note": note,
        }
        self.rows.append(row)
        if self.append:
            append_row("store", row, self.folder)
        else:
            print(", ".join(f"{key} {value}" for key, value in row.items() if key != "versions"), flush=True)

    def print_table(self) -> None:
        for row in self.rows:
            of = ("width", "prompts", "cache") if row["prompts"] else ("captions", "cache")
            what = " ".join(str(row[key]) for key in ("name", *of) if row[key] != "")
            value = f"{row['value']:.4g} {row['unit']}"
            peer = f"{row['ratio']:.3g} x {row['peer']}" if row["ratio"] != "" else row["peer"]
            print(f"{what:64} {value:>20}  {peer:44} {row['goal']:8} {verdict(row)}")


def verdict(row: dict[str, Any]) -> str:
    if not row["goal"]:
        return ""
    sign, number = row["goal"].split()
    value = row["value"] if row["ratio"] == "" else row["ratio"]
    return "PASS" if COMPARE[sign](value, float(number)) else "short of goal"


def timed(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
