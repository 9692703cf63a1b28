"""Run in a fresh process by ``store.py``: opens a store's index and prints what it took, as JSON.

python index_probe.py lookup <store> <fingerprint> <file of caption hashes>
python index_probe.py dataset <store> <fingerprint>
"""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path

from storage import EncodingStore


def main() -> None:
    what, path, fingerprint, *hashes = sys.argv[1:]
    found = {"lookup": probe_lookup, "dataset": probe_dataset}[what](Path(path), fingerprint, *hashes)
    print(json.dumps({**found, "peak_rss": peak_rss()}))


def probe_lookup(path: Path, fingerprint: str, hashes: str) -> dict[str, float]:
    """Seconds to open, to see the newest snapshot, to look captions up the first time and again, to open a version."""
    wanted = json.loads(Path(hashes).read_text())
    times = [time.perf_counter()]
    store = EncodingStore.open(path)
    snapshot = store.snapshot()
    times.append(time.perf_counter())
    for _ in range(2):
        found = store.snapshot().encodings(fingerprint, wanted)
        times.append(time.perf_counter())
        assert len(found) == len(wanted)
    peak = peak_rss()
    times.append(time.perf_counter())
    EncodingStore.open(path, snapshot.version)
    times.append(time.perf_counter())
    opened, first, again, _, pinned = (b - a for a, b in zip(times, times[1:], strict=False))
    return {"open": opened, "first": first, "again": again, "pinned": pinned, "lookup_rss": peak}


def probe_dataset(path: Path, fingerprint: str) -> dict[str, float]:
    """Seconds to open a version to train on, and the memory before it, most of which is PyTorch's."""
    from storage.reading.dataset import DatasetConfig, EncodingDataset

    before = peak_rss()
    start = time.perf_counter()
    data = EncodingDataset(path, DatasetConfig(fingerprint=fingerprint, batch_size=32))
    opened = time.perf_counter() - start
    data.shuffle.order(data.samples_per_epoch, 0)
    return {"open": opened, "rss_before": before}


def peak_rss() -> int:
    """Bytes; of this program alone, where getrusage would count the one that started it too."""
    found = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found.group(1)) * 1024


if __name__ == "__main__":
    main()
