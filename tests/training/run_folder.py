"""What lies in the folder of a training run, as another process sees it while the run goes on."""

from __future__ import annotations

import json
from pathlib import Path

from llmdiff.training.checkpoints.state import complete, read_state


def steps_in(output: Path) -> list[int]:
    """Return the steps of the rows of the metrics that are written whole."""
    path = output / "metrics.jsonl"
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return [json.loads(line)["step"] for line in lines]


def last_step(output: Path) -> int:
    return max(steps_in(output), default=0)


def saved_step(output: Path) -> int:
    """Return the step of the newest checkpoint; 0 where there is none."""
    saved = complete(output / "checkpoints")
    return read_state(saved[-1]).step if saved else 0
