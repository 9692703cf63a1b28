"""Run in a fresh process by ``index.py``: opens a store, waits for a line, and prints what it took, as JSON.

python open_probe.py (train | info | export) <store> <fingerprint>
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from threading import Event, Thread


def main() -> None:
    what, path, fingerprint = sys.argv[1:]
    run = {"train": opened_to_train, "info": summarised, "export": ordered}[what](path, fingerprint)
    before, anonymous = own_memory(), anonymous_memory()
    start, processor = time.perf_counter(), time.process_time()
    with Peak() as peak:
        kept = run()
    found = {"seconds": time.perf_counter() - start, "processor": time.process_time() - processor}
    print("opened", flush=True)
    sys.stdin.readline()
    print(json.dumps({**found, "own": own_memory() - before, "peak": peak.bytes - anonymous}))
    del kept


def opened_to_train(path: str, fingerprint: str) -> Callable[[], object]:
    """Return a function that opens a version to train on, and plans the first batches of an epoch."""
    from storage.reading.dataset import DatasetConfig, EncodingDataset

    def run() -> object:
        data = EncodingDataset(path, DatasetConfig(fingerprint=fingerprint, batch_size=32))
        plan = data.plan(0)
        return data, list(islice(plan, 100)), plan

    return run


def summarised(path: str, fingerprint: str) -> Callable[[], object]:
    """Return a function that summarises the store."""
    from storage import EncodingStore
    from storage.maintenance.summary import summarise

    return lambda: summarise(EncodingStore.open(path))


def ordered(path: str, fingerprint: str) -> Callable[[], object]:
    """Return a function that brings samples into an export's order, and reads none of their arrays."""
    from storage import EncodingStore
    from storage.maintenance.export import in_files
    from storage.maintenance.ordered import ordered_samples

    def run() -> object:
        store = EncodingStore.open(path)
        return sum(len(samples) for samples in in_files(ordered_samples(store, fingerprint), 1000))

    return run


def own_memory() -> int:
    """Return the bytes that no other process shares."""
    found = re.findall(r"^Private_(?:Clean|Dirty):\s*(\d+) kB", Path("/proc/self/smaps_rollup").read_text(), re.M)
    return sum(map(int, found)) * 1024


def anonymous_memory() -> int:
    """Return the bytes that belong to no file: a mapped file's are in the page cache, and all processes share them."""
    found = re.search(r"RssAnon:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found.group(1)) * 1024


class Peak:
    """The most anonymous memory in a block, looked at 50 times a second."""

    def __enter__(self) -> Peak:
        self.bytes, self._ended = 0, Event()
        self._thread = Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(0.02):
            self.bytes = max(self.bytes, anonymous_memory())


if __name__ == "__main__":
    main()
