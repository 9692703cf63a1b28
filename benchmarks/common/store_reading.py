"""Reading an epoch: from the store, from a memory map of the same bytes, and from a file a prompt."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common import layouts
from common.loaders import KohyaFiles, NpzFiles, PtFiles, collate, file_loader, read_memmap, stack
from common.page_cache import PIECE, PIECES_AT_ONCE, evict, read_directly, warm
from common.store_prompts import LATENT, Prompts, make_store
from common.store_rows import StoreResults
from storage.reading.dataset import DatasetConfig, EncodingDataset

BATCH = 32
PEERS = ["memmap", "pt", "npz", "kohya"]


@dataclass(frozen=True)
class Reader:
    """One way to read samples."""

    folder: Path
    samples: int
    batches: Callable[[], Iterator[Any]]


def measure_reading(prompts: Prompts, folder: Path, arguments: argparse.Namespace, results: StoreResults) -> None:
    """Read an epoch of batches from the store, from a memory map of the same bytes, and from a file a prompt."""
    store, fingerprint = make_store(folder / "store", prompts, range(len(prompts)), pictures=True)
    batches = batches_of(EncodingDataset(store.path, DatasetConfig(fingerprint=fingerprint, batch_size=BATCH)))
    write_memmap(folder / "memmap", prompts)
    runs: dict[str, Reader] = {
        "memmap": Reader(
            folder / "memmap",
            len(prompts),
            partial(read_memmap, folder / "memmap", prompts.counts, prompts.width, LATENT, batches),
        )
    }
    for threads in (1, 2):
        data = EncodingDataset(store.path, DatasetConfig(fingerprint=fingerprint, batch_size=BATCH, threads=threads))
        check_same(data.epoch(0), runs["memmap"].batches())
        runs[f"store {threads}"] = Reader(folder / "store", len(prompts), partial(data.epoch, 0))
    for files in (PtFiles(folder / "pt"), NpzFiles(folder / "npz")):
        if files.folder.name in arguments.peer:
            files.folder.mkdir()
            for i in range(len(prompts)):
                files.write(i, prompts.bits(i), prompts.latent(i))
            runs |= file_readers(files, batches, collate)
    if "kohya" in arguments.peer:
        runs |= kohya_readers(prompts, folder / "kohya", arguments.kohya)
    if "warm" in arguments.cache:
        add_reading(prompts, "warm", epochs(runs, "warm", arguments.rounds), results)
    if "cold" in arguments.cache:
        runs["disk"] = Reader(folder / "store", len(prompts), partial(read_directly, folder / "store"))
        add_reading(prompts, "cold", epochs(runs, "cold", arguments.cold_rounds), results)


def kohya_readers(prompts: Prompts, folder: Path, count: int) -> dict[str, Reader]:
    """Write so many captions, spread over the prompts, as kohya does; return their readers."""
    some = np.linspace(0, len(prompts) - 1, min(count, len(prompts))).astype(int).tolist()
    kohya = KohyaFiles(folder)
    folder.mkdir()
    layouts.write_kohya(folder, (prompts.bits(i, 512) for i in some), [int(prompts.counts[i]) for i in some])
    order = np.random.default_rng(0).permutation(len(some))
    return file_readers(kohya, [order[i : i + BATCH] for i in range(0, len(order), BATCH)], stack)


def file_readers(files: Any, batches: Sequence[np.ndarray], join: Callable[..., Any]) -> dict[str, Reader]:
    """Return readers without processes and with two; starting the processes is not counted."""
    readers = {}
    for workers in (0, 2):
        loader = file_loader(files, batches, workers, join)
        for _ in loader if workers else ():
            pass
        count = sum(map(len, batches))
        readers[f"{files.folder.name} {workers}"] = Reader(files.folder, count, lambda loader=loader: iter(loader))
    return readers


def batches_of(data: EncodingDataset) -> list[np.ndarray]:
    """Return the samples of each batch of the first epoch, in the order of the sources' rows."""
    return [planned.ids for planned in data.plan(0)]


def write_memmap(folder: Path, prompts: Prompts) -> None:
    folder.mkdir()
    with (folder / "encodings.bin").open("wb") as file:
        for i in range(len(prompts)):
            file.write(prompts.bits(i).data)
    with (folder / "latents.bin").open("wb") as file:
        for i in range(len(prompts)):
            file.write(prompts.latent(i).data)


def check_same(ours: Iterator[Any], theirs: Iterator[Any]) -> None:
    """Compare batches bit for bit, since random bits may be NaN."""
    for batch, (encodings, mask, latents) in zip(ours, theirs, strict=True):
        assert torch.equal(batch.encodings.view(torch.uint16), encodings.view(torch.uint16))
        assert torch.equal(batch.mask, mask)
        assert torch.equal(batch.latents, latents)


def epochs(runs: dict[str, Reader], cache: str, rounds: int) -> dict[str, list[float]]:
    """Return samples a second of each reader in every round, in turns; opening a store is not timed."""
    rates: dict[str, list[float]] = {name: [] for name in runs}
    if cache == "warm":
        warm(*{run.folder for run in runs.values()})
    for _ in range(rounds):
        for name, run in runs.items():
            batches = run.batches()
            if cache == "cold":
                evict(run.folder)
            start = time.perf_counter()
            for batch in batches:
                del batch
            rates[name].append(run.samples / (time.perf_counter() - start))
    return rates


def add_reading(prompts: Prompts, cache: str, rates: dict[str, list[float]], results: StoreResults) -> None:
    peers = {
        "memmap": ("np.memmap", ">= 0.5" if cache == "warm" else ">= 0.9", "the same bytes"),
        "pt": ("a .pt a prompt", ">= 5", "unpadded bfloat16, with its latent"),
        "npz": ("an .npz a prompt", ">= 5", "unpadded bits, with its latent"),
        "kohya": ("kohya .npz", ">= 5", "512 tokens, float32, as kohya writes it; without latents"),
    }
    if cache == "cold":
        pieces = f"{PIECES_AT_ONCE} pieces of {PIECE // 1024} KiB at once"
        peers["disk"] = ("the disk", "", f"the store's files past the page cache, {pieces}")
    for name, (peer, goal, note) in peers.items():
        if not any(run.split()[0] == name for run in rates):
            continue
        ours, theirs = "store 1", name
        if name in ("memmap", "disk"):
            note += "; one thread of ours"
        else:
            ours, theirs = best(rates, "store"), best(rates, name)
            note += f"; the better of 0 and 2 workers, {theirs.split()[1]}, and of 1 and 2 threads, {ours.split()[1]}"
        results.add(
            "reading an epoch",
            *(statistics.median(rates[ours]), "samples/s"),
            width=prompts.width,
            prompts=prompts.name,
            captions=len(prompts),
            cache=cache,
            peer=peer,
            peer_value=statistics.median(rates[theirs]),
            ratios=[mine / other for mine, other in zip(rates[ours], rates[theirs], strict=True)],
            goal=goal,
            note=f"batches of {BATCH}, latents {'x'.join(map(str, LATENT))}; {note}"
            + ("; emptied, checked with mincore" if cache == "cold" else ""),
        )


def best(rates: dict[str, list[float]], name: str) -> str:
    """Return the fastest of a reader's settings."""
    return max((run for run in rates if run.split()[0] == name), key=lambda run: statistics.median(rates[run]))
