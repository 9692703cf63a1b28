"""The store's index as it grows: commits, look-ups, opening, memory and size, compaction included.

``python benchmarks/index.py`` commits made-up rows as writers do, without arrays, and measures each size in processes
of their own, with a cold and a warm page cache; ``--s3`` does so in an object store on loopback with 2 ms added to each
request; ``--open`` opens each size to train on, to summarise and to export it, too, and drops a source at the end.
``--commits`` commits to stores that had so many commits; ``--writers`` has so many processes commit at once. Rows are
added to ``results/index.csv``; ``--plot`` draws it.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from common.index_plot import plot_index
from common.index_rows import SHARD_ROWS, age, commit, grow
from common.measure import append_row, device_name
from common.open_rows import measure_drop, measure_opening
from common.page_cache import evict

from storage import EncodingStore
from storage.io.paths import store_path, tree_size

HERE = Path(__file__).parent
PLOT = HERE.parent / "docs" / "store-index.png"
SMALL_COMMITS, MEASURED_COMMITS = 8, 8
LARGE_COMMIT, MERGED = 1 << 17, 1 << 21
"""Number of rows of a commit, beyond a million rows and beyond three: the latter are files as merging leaves them."""
GOALS = {
    "look 256 captions up": "< 0.2",
    "look 10,000 captions up": "< 2",
    "a commit": "< 0.3",
    "open a version to train on, the first time": "< 60",
    "open a version to train on": "< 3",
    "memory of looking up, at most": "< 1000",
    "memory of making the training index": "< 1000",
    "own memory of a training process": "< 1000",
    "store info, the first time": "< 3",
}


def main() -> None:
    arguments = parse()
    if arguments.plot:
        plot_index(PLOT)
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        os.environ["LLMDIFF_CACHE"] = str(Path(folder, "cache"))
        with place(arguments.s3, Path(folder)) as (where, root):
            for commits in arguments.commits:
                measure_commits(root, where, commits)
            if arguments.writers:
                measure_writers(f"{root}/writers", where, arguments.writers)
            if not arguments.commits and not arguments.writers:
                measure_growth(f"{root}/grown", where, sorted(arguments.rows), arguments.open)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", nargs="+", type=int, default=[1_000_000, 3_000_000], help="sizes to measure at")
    parser.add_argument("--open", action="store_true", help="train, summarise, export at each size, too; drop a source")
    parser.add_argument("--commits", nargs="+", type=int, default=[], help="instead, after so many commits")
    parser.add_argument("--writers", type=int, default=0, help="instead, so many writer processes at once")
    parser.add_argument("--s3", action="store_true", help="in an object store on loopback, 2 ms a request")
    parser.add_argument("--folder", type=Path, default=None, help="for the store; default: the temporary folder")
    parser.add_argument("--plot", action="store_true", help="measure nothing, draw what was measured")
    return parser.parse_args()


@contextmanager
def place(s3: bool, folder: Path) -> Iterator[tuple[str, str]]:
    """Give the name of where the store lies, and the path."""
    if not s3:
        yield "disk", str(folder)
        return
    sys.path.insert(0, str(HERE.parent))
    from common.slow_object_store import slow_object_store

    with slow_object_store(folder / "s3.log", 0.002) as (environment, bucket):
        os.environ |= environment
        yield "S3, 2 ms a request", f"s3://{bucket}/index"


def measure_growth(path: str, where: str, sizes: list[int], opened: bool) -> None:
    """Measure one store at each size; beyond a million rows it grows by larger commits, for the time that takes."""
    fingerprint = EncodingStore.create(path).register_fingerprint({"kind": "benchmark", "bands": 1})
    shard = rows = 0
    seconds: list[float] = []
    for size in sizes:
        store = EncodingStore.open(path)
        while rows < size - (MEASURED_COMMITS + SMALL_COMMITS) * SHARD_ROWS:
            many = SHARD_ROWS if size <= 1_000_000 else LARGE_COMMIT if size <= 3_000_000 else MERGED
            start = time.perf_counter()
            grow(store, fingerprint, shard, many)
            seconds += [time.perf_counter() - start] * (many == SHARD_ROWS)
            shard, rows = shard + 1, rows + many
        for _ in range(SMALL_COMMITS):
            grow(store, fingerprint, shard)
            shard, rows = shard + 1, rows + SHARD_ROWS
        taken = []
        for _ in range(MEASURED_COMMITS):
            taken.append(commit(store, fingerprint, shard))
            shard, rows = shard + 1, rows + SHARD_ROWS
        entries = store.index.newest().entries
        note = {"where": where, "rows": rows, "files": len(entries)}
        add_commits(taken, f"{SHARD_ROWS} rows", {"commits": shard, **note})
        if size <= 1_000_000:
            mean = statistics.mean(seconds)
            add("a commit with its share of compaction", mean, "s", of=f"{SHARD_ROWS} rows", commits=shard, **note)
        add("index", sum(file.size for file in entries) / rows, "bytes a row", **note)
        cache = tree_size(store_path(os.environ["LLMDIFF_CACHE"]))
        add("cache of a machine", cache / rows, "bytes a row", **note)
        del store  # it maps files of the cache, which could not be thrown out of the page cache
        gc.collect()
        probe_all(path, fingerprint, shard, note)
        if opened:
            measure_opening(path, fingerprint, rows, partial(evict_all, *folders_of(path)), partial(add, **note))
    if opened:
        measure_drop(path, fingerprint, partial(evict_all, *folders_of(path)), partial(add, **note))


def add_commits(taken: list[tuple[float, float]], of: str, note: dict[str, Any]) -> None:
    """Add the median and the slowest of some commits."""
    seconds, cpu = zip(*taken, strict=True)
    add("a commit", statistics.median(seconds), "s", of=of, cpu=statistics.median(cpu), **note)
    add("a commit", min(seconds), "s", of=f"{of}, the fastest of {len(taken)}", cpu=min(cpu), **note)
    add("a commit", max(seconds), "s", of=f"{of}, the slowest of {len(taken)}", cpu=max(cpu), **note)


def folders_of(path: str) -> list[Path]:
    """Return what lies on this machine's disk of a store, and of what is derived from it."""
    cache = Path(os.environ["LLMDIFF_CACHE"])
    return [cache] if "://" in path else [Path(path), cache]


def probe_all(path: str, fingerprint: str, shards: int, note: dict[str, Any]) -> None:
    states = {"warm": lambda: None, "cold": lambda: evict_all(*folders_of(path))}
    for state, prepare in states.items():
        prepare()
        add_lookups(state, probe("many", path, fingerprint, str(shards)), note)
    shutil.rmtree(os.environ["LLMDIFF_CACHE"], ignore_errors=True)
    one = probe("one", path, fingerprint, str(shards))
    for which, of in (("first", "of the oldest shard"), ("missing", "that is not there")):
        add("look a caption up", one[which], "s", cache="no cache yet", of=of, cpu=one[f"{which} cpu"], **note)
    add_lookups("no cache yet", probe("many", path, fingerprint, str(shards)), note)


def evict_all(*folders: Path) -> None:
    """Throw files out of the page cache, tried a few times, for the kernel may hold some."""
    os.sync()
    for attempt in range(5):
        try:
            evict(*folders)
        except RuntimeError:
            if attempt == 4:
                raise
            time.sleep(1)


def add_lookups(state: str, found: dict[str, float], note: dict[str, Any]) -> None:
    first = "first " if state != "warm" else ""
    add("open a store's newest version", found["open"], "s", cache=state, **note)
    add("open a store at a version", found["pinned"], "s", cache=state, **note)
    looked_up = {"look 256 captions up": "256", "look 10,000 captions up": "10000", "look a shard up": "shard"}
    for name, what in looked_up.items():
        key = f"{first}{what}"
        of = f"{SHARD_ROWS} rows, all of them known" if what == "shard" else ""
        add(name, found[key], "s", cache=state, of=of, cpu=found[f"{key} cpu"], **note)
    add("open a store, look 256 captions up", found["open"] + found["first 256"], "s", cache=state, **note)
    add("memory of looking up", found["memory"] / 1e6, "MB", cache=state, **note)
    add("memory of looking up, at most", found["at most"] / 1e6, "MB", cache=state, **note)
    add("peak memory of looking up", found["peak"] / 1e6, "MB", cache=state, of="mapped pages included", **note)


def probe(*arguments: str) -> dict[str, float]:
    """Return what a fresh process measures."""
    command = [sys.executable, str(HERE / "common" / "index_probe.py"), *arguments]
    environment = {**os.environ, "PYTHONPATH": f"{HERE}:{HERE.parent}"}
    output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment).stdout
    return dict(json.loads(output))


def measure_commits(root: str, where: str, commits: int) -> None:
    """Measure commits of 4,096 rows to a store that had so many before, which were merged since."""
    store = EncodingStore.create(f"{root}/commits-{commits}")
    fingerprint = store.register_fingerprint({"kind": "benchmark", "bands": 1})
    age(store, commits)
    store = EncodingStore.open(store.path)
    commit(store, fingerprint, 0)
    taken = [commit(store, fingerprint, number) for number in range(1, 25)]
    note = {"where": where, "rows": 25 * SHARD_ROWS, "files": len(store.index.newest().files), "commits": store.version}
    add_commits(taken, f"{SHARD_ROWS} rows, after so many commits", note)


def measure_writers(path: str, where: str, writers: int, each: int = 2, rows: int = 256) -> None:
    """Measure processes that commit different shards at once, which they made ready before; none is lost."""
    store = EncodingStore.create(path)
    fingerprint = store.register_fingerprint({"kind": "benchmark", "bands": 1})
    command = [sys.executable, str(HERE / "common" / "index_writer.py"), path, fingerprint]
    command += map(str, (writers, each, rows))
    environment = {**os.environ, "PYTHONPATH": f"{HERE}:{HERE.parent}"}
    output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment).stdout
    seconds, taken = json.loads(output)
    waits = [(wall, cpu) for wall, cpu in taken]
    samples = store.samples(fingerprint)
    assert len(waits) == writers * each, "a commit was lost"
    assert len(samples) == len(set(samples["image_hash"].to_pylist())) == writers * each * rows
    note = {"where": where, "rows": len(samples), "files": len(store.index.newest().files), "commits": len(waits)}
    of = f"{writers} processes at once, {each} commits of {rows} rows each"
    add("commits a second", len(waits) / seconds, "1/s", of=of, **note)
    add_commits(waits, of, note)


def add(
    name: str,
    value: float,
    unit: str,
    *,
    where: str,
    rows: int,
    files: int,
    commits: int | str = "",
    cache: str = "",
    of: str = "",
    cpu: float | str = "",
) -> None:
    """Add a row to the CSV file; `cpu` are CPU seconds of the process, which neighbours disturb less."""
    versions = " ".join(f"{each}-{version(each)}" for each in ("deltalake", "pyarrow", "numpy"))
    row = {"device": device_name(torch.device("cpu")), "versions": versions, "where": where, "name": name, "of": of}
    row |= {"rows": rows, "files": files, "commits": commits, "cache": cache, "value": float(value), "unit": unit}
    append_row("index", {**row, "cpu": cpu, "goal": GOALS.get(name, "")})


if __name__ == "__main__":
    main()
