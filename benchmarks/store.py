"""The encoding store against what others do: bytes a caption, reading an epoch, writing. Its index: `index.py`.

Real prompts with real token lengths (GPT-2's tokenizer at width 2,048, Llama 2's at 4,096), or made ones where the
folder of data is missing; the encodings are normal values rounded to bfloat16. Peers are measured in the same run, in
turns, on the same bytes; times are wall-clock. A row's ratio says how many times better the store is. A cold page cache
was emptied with posix_fadvise and mincore found at most 1 % of the files' pages in it; a virtual disk may have a cache
of its own below.

    python benchmarks/store.py
    python benchmarks/store.py --only read --width 2048 --quick
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import layouts
from common.index_rows import SHARD_ROWS
from common.measure import RESULTS
from common.store_prompts import LATENT, LLMS, REPEATS, Prompts, load_prompts, make_store, samples_of, write_shard
from common.store_reading import PEERS, measure_reading
from common.store_rows import StoreResults, timed

from storage import EncodingStore
from storage.io.paths import store_path, tree_size


def main(argv: Sequence[str] | None = None) -> None:
    logging.basicConfig(level=logging.ERROR)
    arguments = parse(argv)
    torch.set_num_threads(1)
    results = StoreResults(append=not arguments.no_append, folder=arguments.results)
    sections = {"bytes": measure_bytes, "read": measure_reading, "write": measure_writing}
    with temporary(arguments.folder) as folder:
        for width in arguments.width:
            for prompts in load_prompts(arguments.data, width, arguments.quick):
                for name in arguments.only if prompts.name in arguments.prompts else ():
                    if name in sections:
                        with temporary(folder) as place:
                            sections[name](prompts, place, arguments, results)
    results.print_table()


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sections = ["bytes", "read", "write"]
    parser.add_argument("--only", nargs="+", choices=sections, default=sections)
    parser.add_argument("--width", nargs="+", type=int, choices=list(LLMS), default=list(LLMS))
    parser.add_argument("--prompts", nargs="+", choices=list(REPEATS), default=list(REPEATS), help="collections")
    parser.add_argument("--peer", nargs="+", choices=PEERS, default=PEERS, help="other ways to read")
    parser.add_argument("--cache", nargs="+", choices=["warm", "cold"], default=["warm", "cold"], help="of reading")
    parser.add_argument("--rounds", type=int, default=7, help="of each measurement with a warm cache")
    parser.add_argument("--cold-rounds", type=int, default=5, help="of each with a cold cache, and of writing")
    parser.add_argument(
        "--padded", type=int, default=64, help="captions written in the padded layouts, all of one size"
    )
    parser.add_argument("--kohya", type=int, default=256, help="captions read as kohya writes them, 4 or 8 MB each")
    parser.add_argument(
        "--data",
        type=Path,
        default=Path("../shared/data"),
        help="folder with prompts/ and tokenizers/; made captions are taken where it is missing",
    )
    parser.add_argument("--folder", type=Path, help="where to write, on the disk to measure (about 12 GB)")
    parser.add_argument("--quick", action="store_true", help="small and few, for a look; adds no rows to the CSV file")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of store.csv")
    parser.add_argument("--no-append", action="store_true", help="add no rows to the CSV file")
    arguments = parser.parse_args(argv)
    if arguments.quick:
        arguments.rounds, arguments.cold_rounds, arguments.padded, arguments.kohya = 3, 2, 8, 32
        arguments.no_append = True
    return arguments


@contextmanager
def temporary(parent: Path | None) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=parent) as name:
        yield Path(name)


# Bytes a caption


def measure_bytes(prompts: Prompts, folder: Path, arguments: argparse.Namespace, results: StoreResults) -> None:
    """Measure a collection's captions in the store, each once and without pictures, against the padded layouts."""
    count = len(prompts) // REPEATS[prompts.name]
    store, _ = make_store(folder / "store", prompts, range(count), pictures=False)
    ours = tree_size(store.path) / count
    some = np.linspace(0, count - 1, min(arguments.padded, count)).astype(int).tolist()
    texts, counts = [prompts.texts[i] for i in some], [int(prompts.counts[i]) for i in some]
    peers: dict[str, tuple[Callable[..., None], int, Sequence[Any], str]] = {
        "kohya .npz": (layouts.write_kohya, 512, counts, "512 tokens, float32"),
        "PixArt .npz": (layouts.write_pixart, 120, counts, "120 tokens, float32, compressed as PixArt does"),
        "Mosaic MDS": (layouts.write_mosaic, 512, texts, "512 tokens, float32"),
    }
    for peer, (write, tokens, third, note) in peers.items():
        place = folder / peer
        place.mkdir()
        write(place, (prompts.bits(i, tokens) for i in some), third)
        theirs = tree_size(store_path(place)) / len(some)
        goal = ">= 5" if prompts.name == "PartiPrompts" else ""
        results.add(
            "bytes a caption, with index and manifests",
            *(ours, "bytes"),
            width=prompts.width,
            prompts=prompts.name,
            captions=count,
            peer=peer,
            peer_value=theirs,
            ratios=[theirs / ours],
            goal=goal,
            note=f"{note}; {len(some)} captions written",
        )
        shutil.rmtree(place)
    raw = int(prompts.counts[:count].sum()) * prompts.width * 2
    arrays = sum(tree_size(shard / "encodings") for shard in (store.path / "shards").children())
    common = {"width": prompts.width, "prompts": prompts.name, "captions": count, "peer": "raw bfloat16 bits"}
    results.add("overhead of the encodings' arrays", arrays / raw - 1, "of raw", goal="<= 0.02", **common)
    results.add("overhead with index and manifests", ours * count / raw - 1, "of raw", **common)


# Writing


def measure_writing(prompts: Prompts, folder: Path, arguments: argparse.Namespace, results: StoreResults) -> None:
    """Measure a shard through the writer, until its commit is on the disk, against the same bytes with one fsync."""
    rows = list(range(min(SHARD_ROWS, len(prompts))))
    size = int(prompts.counts[rows].sum()) * prompts.width * 2 + len(rows) * prompts.latents[0].nbytes
    data = bytearray(size)
    at = 0
    for i in rows:
        for part in (prompts.bits(i), prompts.latent(i)):
            data[at : at + part.nbytes] = part.data.cast("B")
            at += part.nbytes
    ours, plain = [], []
    for turn in range(arguments.cold_rounds + 1):  # the first warms up
        store = EncodingStore.create(folder / "store")
        fingerprint = store.register_fingerprint({"kind": "benchmark", "bands": 1})
        samples = samples_of(prompts, rows, fingerprint, pictures=True)
        ours.append(timed(partial(write_shard, store, samples, prompts)))
        plain.append(timed(lambda: write_plainly(folder / "plain", data)))
        shutil.rmtree(folder / "store")
        (folder / "plain").unlink()
        if turn == 0:
            ours, plain = [], []
    results.add(
        "writing a shard, fsync included",
        *(size / statistics.median(ours) / 1e6, "MB/s"),
        width=prompts.width,
        prompts=prompts.name,
        captions=len(rows),
        peer="write and fsync",
        peer_value=size / statistics.median(plain) / 1e6,
        ratios=[theirs / mine for mine, theirs in zip(ours, plain, strict=True)],
        goal=">= 0.5",
        note=f"{size / 1e6:.0f} MB with latents {'x'.join(map(str, LATENT))}",
    )


def write_plainly(path: Path, data: bytearray) -> None:
    with path.open("wb", buffering=0) as file:
        view = memoryview(data)
        while view:
            view = view[file.write(view) :]
        os.fsync(file.fileno())


if __name__ == "__main__":
    main()
