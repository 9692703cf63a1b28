"""Open a version to train on, and summarise it, as the index grows: seconds and memory of fresh processes.

The rows are made up and committed in files of a million, sorted by hash as compaction leaves them; there are no
arrays. The training index is made by the first opening, and mapped by the second, which a third process repeats at the
same time, so that what both share counts for neither.

    python benchmarks/open_store.py --sizes 1000000 3000000 --append
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from binascii import hexlify
from pathlib import Path

import numpy as np
import pyarrow as pa
from common.store_rows import StoreResults

from storage import EncodingStore
from storage.index.transaction import append
from storage.io.paths import tree_size
from storage.schema import INDEX

ROWS_A_FILE = 1_000_000
ROWS_A_SOURCE = 10_000
ROWS_A_SHARD = 4096


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000_000, 3_000_000], help="Rows of the index.")
    parser.add_argument("--folder", type=Path, help="For the store and the training index; default: a temporary one.")
    parser.add_argument("--append", action="store_true", help="Add the results to benchmarks/results/store.csv.")
    options = parser.parse_args()
    results = StoreResults(options.append)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        measure(Path(folder), sorted(options.sizes), results)


def measure(folder: Path, sizes: list[int], results: StoreResults) -> None:
    """Measure one store at each size."""
    store = EncodingStore.create(folder / "store")
    fingerprint = store.register_fingerprint({"kind": "benchmark", "bands": 1})
    other = store.register_fingerprint({"kind": "another", "bands": 1})
    rows = 0
    for size in sizes:
        while rows < size:
            count = min(ROWS_A_FILE, size - rows)
            table = made_up(fingerprint, other, rows, count)
            append(store.index, f"rows-{rows}", lambda version, table=table: (table, []))
            rows += count
        report(folder, str(store.path), fingerprint, rows, results)


def report(folder: Path, path: str, fingerprint: str, rows: int, results: StoreResults) -> None:
    """Measure in fresh processes, and add the rows of the results."""
    common = {"captions": rows, "note": "a tenth of the rows are another encoder's; files of a million, by hash"}
    environment = {**os.environ, "LLMDIFF_CACHE": str(folder / f"cache-{rows}")}
    (first,) = probes("train", path, fingerprint, environment, 1)
    results.add("open a version to train on, the first time", first["seconds"], "s", goal="< 60", **common)
    results.add("making the training index, processor time", first["processor"], "s", **common)
    results.add("memory of making the training index", first["peak"] / 1e6, "MB", goal="< 1000", **common)
    results.add("training index", tree_size_of(environment["LLMDIFF_CACHE"]) / rows, "bytes a row", **common)
    for again in probes("train", path, fingerprint, environment, 2):
        results.add("open a version to train on again", again["seconds"], "s", goal="< 3", **common)
        results.add("own memory of a training process for it", again["own"] / 1e6, "MB", goal="< 1000", **common)
    (info,) = probes("info", path, fingerprint, environment, 1)
    results.add("llmdiff store info, the first time", info["seconds"], "s", **common)
    results.add("llmdiff store info, processor time", info["processor"], "s", **common)
    (info,) = probes("info", path, fingerprint, environment, 1)
    results.add("llmdiff store info again", info["seconds"], "s", goal="< 3", **common)
    results.add("own memory of store info", info["own"] / 1e6, "MB", **common)


def probes(what: str, path: str, fingerprint: str, environment: dict[str, str], count: int) -> list[dict[str, float]]:
    """Run some processes at once, and return what they found when all had opened the store."""
    command = [sys.executable, str(Path(__file__).parent / "common" / "open_probe.py"), what, path, fingerprint]
    running = [
        subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(count)
    ]
    for process in running:
        assert process.stdout is not None
        assert process.stdout.readline() == "opened\n"
    found = [json.loads(process.communicate("measure\n")[0]) for process in running]
    assert not any(process.returncode for process in running)
    return found


def tree_size_of(folder: str) -> int:
    from storage.io.paths import store_path

    return tree_size(store_path(folder))


def made_up(fingerprint: str, other: str, start: int, count: int) -> pa.Table:
    """Return rows of the index, sorted by hash: of an encoder, and a tenth of them of another."""
    random = np.random.default_rng(start)
    number = start + np.arange(count)
    hashes = hexadecimal(random, count)
    shards = texts("shard", number // ROWS_A_SHARD)
    sources = texts("train", number // ROWS_A_SOURCE)
    columns = {
        "fingerprint": pa.array(np.where(number % 10 == 9, other, fingerprint)),
        "caption_hash": hashes,
        "caption": texts("a photo of some thing or other, number", number),
        "encoding_shard": shards,
        "first_token": number % ROWS_A_SHARD * 30,
        "token_count": random.integers(8, 128, count).astype(np.int32),
        "encoding_checksum": random.integers(0, 1 << 32, count),
        "image_hash": hexadecimal(random, count),
        "latent_key": hexadecimal(random, count),
        "latent_shard": shards,
        "latent_shape": pa.array(["4x64x64"] * count),
        "latent_index": number % ROWS_A_SHARD,
        "latent_checksum": random.integers(0, 1 << 32, count),
        "source": sources,
        "source_hash": texts("0123456789abcdef", number // ROWS_A_SOURCE),
        "row": number % ROWS_A_SOURCE,
        "crop": pa.array([[512, 384, 64, 0]] * count, pa.list_(pa.int32())),
        "shard": shards,
    }
    return pa.table({name: columns[name] for name in INDEX.names}).cast(INDEX).sort_by("caption_hash")


def hexadecimal(random: np.random.Generator, count: int) -> pa.Array:
    """Return random hashes."""
    digits = hexlify(random.bytes(16 * count))
    return pa.Array.from_buffers(pa.binary(32), count, [None, pa.py_buffer(digits)]).cast(pa.binary()).cast(pa.string())


def texts(word: str, numbers: np.ndarray) -> pa.Array:
    """Return texts that begin alike."""
    values, places = np.unique(numbers, return_inverse=True)
    return pa.array([f"{word}-{value:012}" for value in values.tolist()]).take(pa.array(places))


if __name__ == "__main__":
    main()
