"""Numbers of an adapter's parameters."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

from safetensors import safe_open

from llmdiff.adapter.config import STATISTICS, WEIGHTS


def parameters(adapter: Path) -> int:
    """Count the parameters in an adapter folder; what is measured and not trained is none."""
    return sum(count for name, count in by_tensor(adapter).items() if name not in STATISTICS)


def parameters_by_layer(adapter: Path) -> Counter[str]:
    """Count the parameters of each cross-attention, by its module path; `phi` is left out."""
    found: Counter[str] = Counter()
    for name, count in by_tensor(adapter).items():
        if ".new." in name:
            found[name.partition(".new.")[0]] += count
    return found


def by_tensor(adapter: Path) -> dict[str, int]:
    """Return the number of elements of each tensor."""
    with safe_open(adapter / WEIGHTS, framework="pt") as file:
        return {name: math.prod(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 no mapping
