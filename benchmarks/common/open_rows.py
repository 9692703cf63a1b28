"""Opens a store's version in fresh processes: to train on, to summarise it, to export it; what that takes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from storage import EncodingStore, content_hash
from storage.io.paths import store_path, tree_size
from storage.maintenance.gc import drop

PROBE = Path(__file__).parent / "open_probe.py"
Add = Callable[..., None]
"""Type of ``index.add`` without what all rows of a size share."""


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
    measure_info(path, fingerprint, evict, add)
    (found,) = probes("export", path, fingerprint, 1)
    add("order of an export", found["seconds"], "s", cpu=found["processor"])
    add("memory of an export", found["peak"] / 1e6, "MB")


def measure_info(path: str, fingerprint: str, evict: Callable[[], None], add: Add) -> None:
    """Add the rows of a summary on a machine that has made none yet."""
    for state in ("warm", "cold"):
        shutil.rmtree(Path(os.environ["LLMDIFF_CACHE"], "counts"), ignore_errors=True)
        if state == "cold":
            evict()
        (found,) = probes("info", path, fingerprint, 1)
        add("store info, the first time", found["seconds"], "s", cpu=found["processor"], cache=state)
        add("memory of store info", found["peak"] / 1e6, "MB", cache=state)


def measure_drop(path: str, fingerprint: str, evict: Callable[[], None], add: Add) -> None:
    """Take the rows of a source out; add the rows of that, and of a summary after it."""
    store = EncodingStore.open(path)
    wall, cpu = time.perf_counter(), time.process_time()
    drop(store, source_hash=content_hash(b"source 0"))
    add("drop a source", time.perf_counter() - wall, "s", cpu=time.process_time() - cpu)
    measure_info(path, fingerprint, evict, partial(add, of="after a source was dropped"))


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
