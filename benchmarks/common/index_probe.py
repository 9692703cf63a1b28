"""Run in a fresh process by ``index.py``: opens a store's index and prints what it took, as JSON.

python index_probe.py (many | one) <store> <fingerprint> <shards in it>
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from common.index_rows import SHARD_ROWS, hashes
from common.open_probe import Peak
from storage import EncodingStore, content_hash


def main() -> None:
    what, path, fingerprint, shards = sys.argv[1:]
    print(json.dumps({"many": probe_lookup, "one": probe_one}[what](path, fingerprint, int(shards))))


def probe_lookup(path: str, fingerprint: str, shards: int) -> dict[str, float]:
    """Measure seconds to open and of look-ups, half of which find something; the most memory, and our own of it."""
    some = [hashes(int(i), "caption_hash") for i in np.random.default_rng(1).permutation(shards)[:40]]
    there = [each for shard in some for each in shard[:125]]
    wanted = [*there, *(content_hash(each.encode()) for each in there)]
    np.random.default_rng(2).shuffle(wanted)
    before = memory("RssAnon")
    found = {}
    start = time.perf_counter()
    store = EncodingStore.open(path)
    store.snapshot()
    found["open"] = time.perf_counter() - start

    def look_up(captions: list[str]) -> None:
        assert store.snapshot().encodings(fingerprint, captions)

    with Peak() as peak:
        found |= timed("256", lambda: look_up(wanted[:256]))
        found |= timed("10000", lambda: look_up(wanted))
        assert len(store.snapshot().encodings(fingerprint, wanted)) == len(there)
        shard = int(shards // 2)
        found |= timed("shard", lambda: look_up_shard(store, fingerprint, shard))
    found["at most"] = peak.bytes - before
    found["memory"] = memory("RssAnon") - before
    found["peak"] = memory("VmHWM")
    start = time.perf_counter()
    EncodingStore.open(path, store.version)
    found["pinned"] = time.perf_counter() - start
    return found


def probe_one(path: str, fingerprint: str, shards: int) -> dict[str, float]:
    """Measure look-ups of one caption, of the first ones and of none, as they are without keys in the cache."""
    found: dict[str, float] = {}
    first, missing = hashes(0, "caption_hash")[0], content_hash(b"missing")
    for name, key in (("first", first), ("missing", missing)):
        snapshot = EncodingStore.open(path).snapshot()
        wall, cpu = time.perf_counter(), time.process_time()
        assert len(snapshot.encodings(fingerprint, [key])) == (name == "first")
        found |= {name: time.perf_counter() - wall, f"{name} cpu": time.process_time() - cpu}
    return found


def look_up_shard(store: EncodingStore, fingerprint: str, shard: int) -> None:
    """Look up all that encoding asks of a shard's rows that are there."""
    snapshot = store.snapshot()
    snapshot.prepare()
    captions, images, latents = (hashes(shard, name) for name in ("caption_hash", "image_hash", "latent_key"))
    known = snapshot.known_rows(fingerprint, content_hash(f"source {shard}".encode()))
    contents = snapshot.contents(fingerprint, set(zip(images, captions, strict=True)))
    found = [contents, snapshot.latents(latents), snapshot.encodings(fingerprint, captions)]
    assert len(known) >= SHARD_ROWS
    assert [len(each) for each in found] == [SHARD_ROWS] * 3


def timed(what: str, run: Callable[[], None]) -> dict[str, float]:
    """Return seconds of the first time, and of the best of five more; and CPU seconds of each."""
    found: dict[str, float] = {}
    for number in range(6):
        wall, cpu = time.perf_counter(), time.process_time()
        run()
        key = what if number else f"first {what}"
        taken = {key: time.perf_counter() - wall, f"{key} cpu": time.process_time() - cpu}
        found |= {name: min(value, found.get(name, value)) for name, value in taken.items()}
    return found


def memory(what: str) -> int:
    """Return bytes: ``VmHWM`` is the most there was, mapped pages included; ``RssAnon`` is the process's own."""
    found = re.search(rf"{what}:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found.group(1)) * 1024


if __name__ == "__main__":
    main()
