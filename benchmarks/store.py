"""The encoding store against what others do: bytes a caption, reading an epoch, writing, and the index as it grows.

Real prompts with real token lengths (GPT-2's tokenizer at width 2,048, Llama 2's at 4,096); the encodings are normal
values rounded to bfloat16. Peers are measured in the same run, in turns, on the same bytes; times are wall-clock. A
row's ratio says how many times better the store is. A cold page cache was emptied with posix_fadvise and mincore
found at most 1 % of the files' pages in it; a virtual disk may have a cache of its own below.

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
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import layouts
from common.index_growth import SHARD_ROWS, measure_index
from common.loaders import KohyaFiles, NpzFiles, PtFiles, collate, file_loader, read_memmap, stack
from common.page_cache import PIECE, PIECES_AT_ONCE, evict, read_directly, warm
from common.prompts import gpt2_tokenizer, llama2_tokenizer, read_prompts
from common.store_rows import Rows, timed

from storage import EncodingStore, Sample, ShardWriter, caption_hash, content_hash
from storage.io.files import folder_size
from storage.reading.dataset import DatasetConfig, EncodingDataset
from storage.reading.shuffle import batch_bounds, share

TOKENIZERS = {2048: gpt2_tokenizer, 4096: llama2_tokenizer}
PARTI = 1632  # prompts of PartiPrompts, which `read_prompts` returns first
REPEATS = {
    "PartiPrompts": 4,
    "DPG-Bench": 2,
}  # so that an epoch takes long enough to time, and several groups of blocks
BATCH = 32
LATENT = (4, 32, 32)  # of a picture of 256 x 256


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """Captions of one collection with made-up encodings of one width."""

    name: str
    width: int
    texts: list[str]
    counts: np.ndarray
    """int64 ``(n,)``, tokens of each."""
    pool: np.ndarray
    """uint16 ``(token, width)``, what encodings are cut out of."""
    latents: np.ndarray
    """float16 ``(64, *LATENT)``"""

    def __len__(self) -> int:
        return len(self.texts)

    def bits(self, i: int, tokens: int | None = None) -> np.ndarray:
        """A caption's encoding, or as many rows from where it begins."""
        tokens = int(self.counts[i]) if tokens is None else tokens
        start = i * 7919 % (len(self.pool) - tokens)
        return self.pool[start : start + tokens]

    def latent(self, i: int) -> np.ndarray:
        return self.latents[i % len(self.latents)]

    @property
    def raw_bytes(self) -> int:
        return int(self.counts.sum()) * self.width * 2


def main() -> None:
    logging.basicConfig(level=logging.ERROR)
    arguments = parse()
    if not arguments.data.is_dir():
        print(f"{arguments.data}: no such folder; nothing measured (see --data)")
        return
    torch.set_num_threads(1)
    results = Rows(append=not arguments.no_append)
    sections = {"bytes": measure_bytes, "read": measure_reading, "write": measure_writing}
    with temporary(arguments.folder) as folder:
        for width in arguments.width:
            for prompts in load_prompts(arguments.data, width, arguments.quick):
                for name in arguments.only:
                    if name in sections:
                        with temporary(folder) as place:
                            sections[name](prompts, place, arguments, results)
        if "index" in arguments.only:
            plot = None if arguments.no_append else arguments.plot
            measure_index(folder, read_prompts(arguments.data), arguments.rows, plot, results)
    results.print_table()


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sections = ["bytes", "read", "write", "index"]
    parser.add_argument("--only", nargs="+", choices=sections, default=sections)
    parser.add_argument("--width", nargs="+", type=int, choices=list(TOKENIZERS), default=list(TOKENIZERS))
    parser.add_argument("--rounds", type=int, default=7, help="of each measurement with a warm cache")
    parser.add_argument("--cold-rounds", type=int, default=5, help="of each with a cold cache, and of writing")
    parser.add_argument(
        "--padded", type=int, default=64, help="captions written in the padded layouts, all of one size"
    )
    parser.add_argument("--kohya", type=int, default=256, help="captions read as kohya writes them, 4 or 8 MB each")
    parser.add_argument("--rows", nargs="+", type=int, default=[10_000, 100_000, 1_000_000], help="sizes of the index")
    parser.add_argument(
        "--data", type=Path, default=Path("../shared/data"), help="folder with prompts/ and tokenizers/"
    )
    parser.add_argument("--folder", type=Path, help="where to write, on the disk to measure (about 12 GB)")
    parser.add_argument("--plot", type=Path, default=Path("docs/store-index.png"))
    parser.add_argument("--quick", action="store_true", help="small and few, for a look; adds no rows to the CSV file")
    parser.add_argument("--no-append", action="store_true", help="add no rows to the CSV file, and no plot")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds, arguments.cold_rounds, arguments.padded, arguments.kohya = 3, 2, 8, 32
        arguments.rows = [row for row in arguments.rows if row <= 100_000]
        arguments.no_append = True
    return arguments


@contextmanager
def temporary(parent: Path | None) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=parent) as name:
        yield Path(name)


def load_prompts(data: Path, width: int, quick: bool) -> Iterator[Prompts]:
    """Both collections; repeated prompts get other texts, so that they are other captions, and other encodings."""
    random = np.random.default_rng(0)
    values = random.standard_normal((4096, width), np.float32)
    pool = (values.view(np.uint32) >> 16).astype(np.uint16)  # the upper half is a bfloat16
    latents = random.standard_normal((64, *LATENT), np.float32).astype(np.float16)
    tokenizer = TOKENIZERS[width](data)
    all_texts = read_prompts(data)
    for name, texts in (("PartiPrompts", all_texts[:PARTI]), ("DPG-Bench", all_texts[PARTI:])):
        texts = texts[:: 4 if quick else 1]
        counts = np.array([len(ids) for ids in tokenizer(texts)["input_ids"]])
        texts = [f"{text} ({turn})" if turn else text for turn in range(REPEATS[name]) for text in texts]
        counts = np.tile(counts, REPEATS[name])
        yield Prompts(name=name, width=width, texts=texts, counts=counts, pool=pool, latents=latents)


# Writing stores


def make_store(folder: Path, prompts: Prompts, rows: Iterable[int], pictures: bool) -> tuple[EncodingStore, str]:
    store = EncodingStore.create(folder)
    fingerprint = store.register_fingerprint({"kind": "benchmark", "bands": 1, "width": prompts.width})
    rows = list(rows)
    for first in range(0, len(rows), SHARD_ROWS):
        write_shard(store, samples_of(prompts, rows[first : first + SHARD_ROWS], fingerprint, pictures), prompts)
    return store, fingerprint


def write_shard(store: EncodingStore, samples: Iterable[Sample], prompts: Prompts) -> None:
    """A shard of samples of one fingerprint, as the encoder writes it."""
    with ShardWriter(store) as writer:
        for sample in samples:
            writer.add_encoding(sample.caption_hash, prompts.bits(sample.row), sample.fingerprint)
            if sample.latent_key:
                writer.add_latent(sample.latent_key, prompts.latent(sample.row))
            writer.add_sample(sample)


def samples_of(prompts: Prompts, rows: Sequence[int], fingerprint: str, pictures: bool) -> list[Sample]:
    source = f"{prompts.name}-{rows[0]:08}.parquet"
    source_hash = content_hash(source.encode())
    found = []
    for i in rows:
        picture = content_hash(f"picture {i}".encode()) if pictures else None
        sample = Sample(
            caption=prompts.texts[i],
            caption_hash=caption_hash(prompts.texts[i]),
            fingerprint=fingerprint,
            source=source,
            source_hash=source_hash,
            row=i,
            image_hash=picture,
            latent_key=picture,
        )
        found.append(sample)
    return found


# Bytes a caption


def measure_bytes(prompts: Prompts, folder: Path, arguments: argparse.Namespace, results: Rows) -> None:
    """The store of a collection's captions, each once and without pictures, against the padded layouts."""
    count = len(prompts) // REPEATS[prompts.name]
    store, _ = make_store(folder / "store", prompts, range(count), pictures=False)
    ours = folder_size(store.path) / count
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
        theirs = folder_size(place) / len(some)
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
    arrays = sum(folder_size(shard / "encodings") for shard in (store.path / "shards").iterdir())
    common = {"width": prompts.width, "prompts": prompts.name, "captions": count, "peer": "raw bfloat16 bits"}
    results.add("overhead of the encodings' arrays", arrays / raw - 1, "of raw", goal="<= 0.02", **common)
    results.add("overhead with index and manifests", ours * count / raw - 1, "of raw", **common)


# Reading an epoch


@dataclass(frozen=True)
class Reader:
    """One way to read samples."""

    folder: Path
    samples: int
    batches: Callable[[], Iterator[Any]]


def measure_reading(prompts: Prompts, folder: Path, arguments: argparse.Namespace, results: Rows) -> None:
    """An epoch of batches from the store, a memory map of the same bytes, and a file a prompt."""
    store, fingerprint = make_store(folder / "store", prompts, range(len(prompts)), pictures=True)
    batches = batches_of(EncodingDataset(store.path, DatasetConfig(fingerprint=fingerprint, batch_size=BATCH)))
    write_memmap(folder / "memmap", prompts)
    runs = {
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
        files.folder.mkdir()
        for i in range(len(prompts)):
            files.write(i, prompts.bits(i), prompts.latent(i))
        runs |= file_readers(files, batches, collate)
    some = np.linspace(0, len(prompts) - 1, min(arguments.kohya, len(prompts))).astype(int).tolist()
    kohya = KohyaFiles(folder / "kohya")
    kohya.folder.mkdir()
    layouts.write_kohya(kohya.folder, (prompts.bits(i, 512) for i in some), [int(prompts.counts[i]) for i in some])
    order = np.random.default_rng(0).permutation(len(some))
    runs |= file_readers(kohya, [order[i : i + BATCH] for i in range(0, len(order), BATCH)], stack)
    add_reading(prompts, "warm", epochs(runs, "warm", arguments.rounds), results)
    runs["disk"] = Reader(folder / "store", len(prompts), partial(read_directly, folder / "store"))
    add_reading(prompts, "cold", epochs(runs, "cold", arguments.cold_rounds), results)


def file_readers(files: Any, batches: Sequence[np.ndarray], join: Callable[..., Any]) -> dict[str, Reader]:
    """Without processes and with two; starting them is not counted."""
    readers = {}
    for workers in (0, 2):
        loader = file_loader(files, batches, workers, join)
        for _ in loader if workers else ():
            pass
        count = sum(map(len, batches))
        readers[f"{files.folder.name} {workers}"] = Reader(files.folder, count, lambda loader=loader: iter(loader))
    return readers


def batches_of(data: EncodingDataset) -> list[np.ndarray]:
    """Samples of each batch of its first epoch, in the order of the sources' rows."""
    count = data.samples_per_epoch
    order, lanes = data.shuffle.order(count, 0)
    bounds = batch_bounds(count, 0, data.config.batch_size, 1, data.config.drop_last)
    return [order[a:b][share(lanes[a:b], 0, 1)] for a, b in bounds]


def write_memmap(folder: Path, prompts: Prompts) -> None:
    folder.mkdir()
    with (folder / "encodings.bin").open("wb") as file:
        for i in range(len(prompts)):
            file.write(prompts.bits(i).data)
    with (folder / "latents.bin").open("wb") as file:
        for i in range(len(prompts)):
            file.write(prompts.latent(i).data)


def check_same(ours: Iterator[Any], theirs: Iterator[Any]) -> None:
    """Bit for bit, since random bits may be NaN."""
    for batch, (encodings, mask, latents) in zip(ours, theirs, strict=True):
        assert torch.equal(batch.encodings.view(torch.uint16), encodings.view(torch.uint16))
        assert torch.equal(batch.mask, mask)
        assert torch.equal(batch.latents, latents)


def epochs(runs: dict[str, Reader], cache: str, rounds: int) -> dict[str, list[float]]:
    """Samples a second of each reader in every round, in turns. Opening a store or starting processes is not timed."""
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


def add_reading(prompts: Prompts, cache: str, rates: dict[str, list[float]], results: Rows) -> None:
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
    """The fastest of a reader's settings."""
    return max((run for run in rates if run.split()[0] == name), key=lambda run: statistics.median(rates[run]))


# Writing


def measure_writing(prompts: Prompts, folder: Path, arguments: argparse.Namespace, results: Rows) -> None:
    """A shard through the writer, until its commit is on the disk, against writing the same bytes with one fsync."""
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
