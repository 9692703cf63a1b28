"""Run in a fresh process by ``open_store.py``: opens a store, waits for a line, and prints what it took, as JSON.

python open_probe.py (train | info) <store> <fingerprint>
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path


def main() -> None:
    what, path, fingerprint = sys.argv[1:]
    run = {"train": opened_to_train, "info": summarised}[what](path, fingerprint)
    before = own_memory()
    start = time.perf_counter()
    kept = run()
    seconds = time.perf_counter() - start
    print("opened", flush=True)
    sys.stdin.readline()
    print(json.dumps({"seconds": seconds, "own": own_memory() - before, "peak_rss": peak_rss() - before}))
    del kept


def opened_to_train(path: str, fingerprint: str) -> Callable[[], object]:
    """Open a version to train on, and plan the first batches of an epoch."""
    from storage.reading.dataset import DatasetConfig, EncodingDataset

    def run() -> object:
        data = EncodingDataset(path, DatasetConfig(fingerprint=fingerprint, batch_size=32))
        plan = data._plan(0, 0, data.entries.each_seen(0))
        return data, list(islice(plan, 100)), plan

    return run


def summarised(path: str, fingerprint: str) -> Callable[[], object]:
    """Summarise it."""
    from storage import EncodingStore
    from storage.maintenance.summary import summarise

    return lambda: summarise(EncodingStore.open(path))


def own_memory() -> int:
    """Bytes that no other process shares."""
    found = re.findall(r"^Private_(?:Clean|Dirty):\s*(\d+) kB", Path("/proc/self/smaps_rollup").read_text(), re.M)
    return sum(map(int, found)) * 1024


def peak_rss() -> int:
    """Bytes at most."""
    found = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found.group(1)) * 1024


if __name__ == "__main__":
    main()
