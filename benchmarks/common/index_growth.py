"""The store's index as it grows: look-ups, opening, memory and size, and a plot of them."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
from matplotlib.figure import Figure

from common.page_cache import evict
from common.store_rows import StoreResults, timed
from storage import EncodingStore, caption_hash, content_hash
from storage.index.transaction import append
from storage.io.paths import store_path, tree_size
from storage.schema import INDEX

SHARD_ROWS = 4096


def measure_index(folder: Path, texts: list[str], sizes: list[int], plot: Path | None, results: StoreResults) -> None:
    """One store, committed to as writers do, without arrays; probed at each size in processes of their own."""
    store = EncodingStore.create(folder / "indexed")
    fingerprint = store.register_fingerprint({"kind": "benchmark", "bands": 1})
    found: dict[int, dict[str, float]] = {}
    for rows in sorted(sizes):
        start = max(found, default=0)
        seconds = [
            timed(
                lambda first=first, rows=rows: commit_rows(
                    store, fingerprint, texts, first, min(first + SHARD_ROWS, rows)
                )
            )
            for first in range(start, rows, SHARD_ROWS)
        ]
        found[rows] = {**probe(store.path, fingerprint, texts, rows), "commit": statistics.median(seconds)}
        add_index(rows, found[rows], len(store.index.newest().files), results)
    if plot is not None:
        plot_index(found, plot)


def commit_rows(store: EncodingStore, fingerprint: str, texts: list[str], first: int, stop: int) -> None:
    """One commit of samples from `first` to `stop`."""
    rows = range(first, stop)
    shard = content_hash(f"shard {first}".encode())
    captions = [caption_of(texts, i) for i in rows]
    hashes = {what: [content_hash(f"{what} {i}".encode()) for i in rows] for what in ("picture", "latent")}
    counts = [4 + len(caption) // 4 for caption in captions]
    random = np.random.default_rng(first)
    table = pa.Table.from_pydict(
        {
            "fingerprint": [fingerprint] * len(rows),
            "caption_hash": [caption_hash(caption) for caption in captions],
            "caption": captions,
            "encoding_shard": [shard] * len(rows),
            "first_token": np.cumsum([0, *counts[:-1]]),
            "token_count": counts,
            "encoding_checksum": random.integers(0, 1 << 32, len(rows)),
            "image_hash": hashes["picture"],
            "latent_key": hashes["latent"],
            "latent_shard": [shard] * len(rows),
            "latent_shape": ["4x64x64"] * len(rows),
            "latent_index": np.arange(len(rows)),
            "latent_checksum": random.integers(0, 1 << 32, len(rows)),
            "source": [f"train-{first // SHARD_ROWS:05}.parquet"] * len(rows),
            "source_hash": [content_hash(f"source {first}".encode())] * len(rows),
            "row": np.arange(len(rows)),
            "crop": [[512, 384, 64, 0]] * len(rows),
            "shard": [shard] * len(rows),
        },
        INDEX,
    )
    append(store.index, shard, lambda version: (table, [f"{fingerprint}/{table['source_hash'][0]}"]))


def caption_of(texts: list[str], i: int) -> str:
    return f"{texts[i % len(texts)]} ({i // len(texts)})"


def probe(path: Path, fingerprint: str, texts: list[str], rows: int) -> dict[str, float]:
    """What fresh processes measure, with a cold and a warm page cache."""
    some = np.random.default_rng(1).permutation(rows)[: min(10_000, rows)]
    hashes = path.parent / "hashes.json"
    hashes.write_text(json.dumps([caption_hash(caption_of(texts, int(i))) for i in some]))
    found: dict[str, float] = {"bytes": tree_size(store_path(path / "index"))}
    for cache in ("cold", "warm"):
        for what, more in (("lookup", [str(hashes)]), ("dataset", [])):
            if cache == "cold":
                evict(path)
            command = [
                sys.executable,
                str(Path(__file__).with_name("index_probe.py")),
                what,
                str(path),
                fingerprint,
            ]
            output = subprocess.run([*command, *more], capture_output=True, text=True, check=True).stdout
            found |= {f"{cache} {what} {key}": value for key, value in json.loads(output).items()}
    return found


def add_index(rows: int, found: dict[str, float], files: int, results: StoreResults) -> None:
    goal = "< 2" if rows == 1_000_000 else ""
    common = {"captions": rows, "note": f"{files} files, a fresh process"}
    for cache in ("cold", "warm"):
        part = {key.removeprefix(f"{cache} "): value for key, value in found.items() if key.startswith(cache)}
        both = part["lookup open"] + part["lookup first"]
        results.add("open a store, look 10,000 captions up", both, "s", cache=cache, goal=goal, **common)
        results.add("open a store's newest version", part["lookup open"], "s", cache=cache, goal=goal, **common)
        results.add("open a store at a version", part["lookup pinned"], "s", cache=cache, goal=goal, **common)
        results.add("open a version to train on", part["dataset open"], "s", cache=cache, goal=goal, **common)
    results.add("look 10,000 captions up again", part["lookup again"], "s", cache="warm", goal=goal, **common)
    goal = "< 1000" if rows == 1_000_000 else ""
    results.add("peak memory of looking up", part["lookup lookup_rss"] / 1e6, "MB", goal=goal, **common)
    torch_mb = part["dataset rss_before"] / 1e6
    note = f"{common['note']}, {torch_mb:.0f} MB of it before opening, most of it PyTorch's"
    peak = part["dataset peak_rss"] / 1e6
    results.add("peak memory of opening to train on", peak, "MB", captions=rows, goal=goal, note=note)
    results.add("index", found["bytes"] / rows, "bytes a row", **common)
    results.add(f"a commit of {SHARD_ROWS} rows", found["commit"], "s", **common)


def plot_index(found: dict[int, dict[str, float]], path: Path) -> None:
    """Seconds and memory over the rows of the index."""
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    seconds, memory = figure.subplots(1, 2)
    rows = list(found)
    lines: dict[str, Callable[[dict[str, float]], float]] = {
        "open and look 10,000 captions up, cold": lambda at: at["cold lookup open"] + at["cold lookup first"],
        "open and look 10,000 captions up, warm": lambda at: at["warm lookup open"] + at["warm lookup first"],
        "look 10,000 captions up again": lambda at: at["warm lookup again"],
        "open to train on, cold": lambda at: at["cold dataset open"],
        "open a version, warm": lambda at: at["warm lookup pinned"],
    }
    for label, value in lines.items():
        seconds.plot(rows, [value(found[row]) for row in rows], marker="o", label=label)
    seconds.axhline(2.0, color="black", linestyle=":", linewidth=1)
    seconds.set(xlabel="rows of the index", ylabel="seconds", xscale="log", yscale="log")
    for label, key in (("looking up", "warm lookup lookup_rss"), ("opening to train on", "warm dataset peak_rss")):
        memory.plot(rows, [found[row][key] / 1e6 for row in rows], marker="o", label=label)
    memory.plot(rows, [found[row]["bytes"] / 1e6 for row in rows], marker="o", label="the index on the disk")
    memory.axhline(1000.0, color="black", linestyle=":", linewidth=1)
    memory.set(xlabel="rows of the index", ylabel="MB (peak of a fresh process)", xscale="log", yscale="log")
    for axes in (seconds, memory):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=2, frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=150)
