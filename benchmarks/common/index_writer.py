"""Run by ``index.py``, many at once: makes rows, waits for a line, commits them, and prints what each commit took.

python index_writer.py <store> <fingerprint> <first shard> <shards> <rows of each>
"""

from __future__ import annotations

import json
import sys

from common.index_rows import commit_rows, shard_rows
from storage import EncodingStore


def main() -> None:
    path, fingerprint, *numbers = sys.argv[1:]
    first, shards, rows = map(int, numbers)
    added = [shard_rows(fingerprint, shard, rows) for shard in range(first, first + shards)]
    store = EncodingStore.open(path)
    print("ready", flush=True)
    sys.stdin.readline()
    print(json.dumps([commit_rows(store, each) for each in added]))


if __name__ == "__main__":
    main()
