"""Run by ``index.py``: processes that commit at once; prints the seconds of all, and what each commit took, as JSON.

python index_writer.py <store> <fingerprint> <processes> <commits of each> <rows of each>
"""

from __future__ import annotations

import json
import sys
import time
from multiprocessing import get_context
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier

from common.index_rows import commit_rows, shard_rows
from storage import EncodingStore


def main() -> None:
    path, fingerprint, *numbers = sys.argv[1:]
    writers, each, rows = map(int, numbers)
    context = get_context("fork")  # nothing but imports was done, which each would take a second for
    ready, found = context.Barrier(writers + 1), context.Queue()
    shards = [range(writer * each, (writer + 1) * each) for writer in range(writers)]
    started = [
        context.Process(target=write, args=(path, fingerprint, mine, rows, ready, found), daemon=True)
        for mine in shards
    ]
    for process in started:
        process.start()
    ready.wait()
    start = time.perf_counter()
    taken = [one for _ in started for one in found.get()]
    seconds = time.perf_counter() - start
    for process in started:
        process.join()
    assert not any(process.exitcode for process in started)
    print(json.dumps([seconds, taken]))


def write(path: str, fingerprint: str, shards: range, rows: int, ready: Barrier, found: Queue) -> None:
    added = [shard_rows(fingerprint, shard, rows) for shard in shards]
    store = EncodingStore.open(path)
    ready.wait()
    found.put([commit_rows(store, each) for each in added])


if __name__ == "__main__":
    main()
