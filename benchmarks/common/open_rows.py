"""Opens a store's version in fresh processes: to train on, to summarise it, to export it; what that takes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from storage.io.paths import store_path, tree_size

PROBE = Path(__file__).parent / "open_probe.py"
Add = Callable[..., None]
"""``index.add``, without what all rows of a size share."""


def measure_opening(path: str, fingerprint: str, rows: int, evict: Callable[[], None], add: Add) -> None:
    """Add the rows of one size; `evict` throws the store and the cache out of the page cache."""
    cache = Path(os.environ["LLMDIFF_CACHE"])
    first = "open a version to train on, the first time"
    for state in ("warm", "cold"):
        shutil.rmtree(cache / "training", ignore_errors=True)
        if state == "cold":
            evict()
        (found,) = probes("train", path, fingerprint, 1)
        add(first, found["seconds"], "s", cpu=found["processor"], cache=state)
        add("memory of making the training index", found["peak"] / 1e6, "MB", cache=state)
    add("training index", tree_size(store_path(str(cache / "training"))) / rows, "bytes a row")
    for again in probes("train", path, fingerprint, 2):
        add("open a version to train on", again["seconds"], "s", cpu=again["processor"], cache="warm")
        add("own memory of a training process", again["own"] / 1e6, "MB", cache="warm")
    evict()
    (found,) = probes("train", path, fingerprint, 1)
    add("open a version to train on", found["seconds"], "s", cpu=found["processor"], cache="cold")
    for state in ("warm", "cold"):
        shutil.rmtree(cache / "counts", ignore_errors=True)
        if state == "cold":
            evict()
        (found,) = probes("info", path, fingerprint, 1)
        add("store info, the first time", found["seconds"], "s", cpu=found["processor"], cache=state)
        add("memory of store info", found["peak"] / 1e6, "MB", cache=state)
    (found,) = probes("export", path, fingerprint, 1)
    add("order of an export", found["seconds"], "s", cpu=found["processor"])
    add("memory of an export", found["peak"] / 1e6, "MB")


def probes(what: str, path: str, fingerprint: str, count: int) -> list[dict[str, Any]]:
    """Run some processes at once, and return what they found when all had opened the store."""
    command = [sys.executable, str(PROBE), what, path, fingerprint]
    running = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(count)
    ]
    for process in running:
        assert process.stdout is not None
        assert process.stdout.readline() == "opened\n"
    found = [json.loads(process.communicate("measure\n")[0]) for process in running]
    assert not any(process.returncode for process in running)
    return found
