"""How near encoding pictures comes to its slowest stage, and how long an accelerator would wait for it."""

from __future__ import annotations

import io
import os
import runpy
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from diffusers import AutoencoderKL
from PIL import Image
from torch import Tensor

from common.measure import append_row, device_name, versions
from llmdiff.data.encode import EncoderSet, encode_shard, prepare
from llmdiff.data.encode.reading import cores
from llmdiff.data.images import load_image
from llmdiff.data.sources import SourceShard, open_source
from llmdiff.diffusion.latents import AT_ONCE, LatentEncoder
from storage import EncodingStore

ROOT = Path(__file__).parents[2]
VAE = runpy.run_path(str(ROOT / "tests" / "real_shapes.py"))["VAE"]
GOAL_SHARE, GOAL_WAITING = 0.9, 0.05


class NoText:
    """A text encoder in place of the LLM: encodings of two tokens that take no time."""

    def __call__(self, captions: Sequence[str]) -> list[Tensor]:
        return [torch.zeros(2, 64) for _ in captions]

    def describe(self) -> dict[str, Any]:
        return {"kind": "benchmark", "hidden_size": 64}


@dataclass
class StandIn:
    """An autoencoder in place of an accelerator's: it sleeps as long as that would take, and counts how long in all."""

    seconds: float
    """Seconds for a picture."""
    at_once: int = AT_ONCE
    factor: int = 8
    slept: float = field(default=0.0, init=False)

    def __call__(self, images: np.ndarray) -> Tensor:
        start = time.perf_counter()
        time.sleep(self.seconds * len(images))
        self.slept += time.perf_counter() - start
        # No work for this machine's cores, which an accelerator would not give them: one number, seen as many.
        return torch.zeros((), dtype=torch.float16).expand(len(images), 4, images.shape[1] // 8, images.shape[2] // 8)

    def describe(self) -> dict[str, Any]:
        return {"kind": "vae", "stand-in": self.seconds}


class Case(NamedTuple):
    """Pictures, and what turns them into latents."""

    pictures: int
    size: int
    enlarged: int = 1
    """Factor of the photographs' side: a telephone's are 3,000 pixels wide, and take long to decode."""
    settings: Mapping[str, Any] | None = None
    """Settings over those of SD 1.5's autoencoder; None for a stand-in."""
    seconds: float = 0.0
    """Seconds that the stand-in takes for a picture."""


SMALL = {"block_out_channels": (8, 8, 8, 8), "norm_num_groups": 4, "layers_per_block": 1}
CASES = {
    "small autoencoder": Case(pictures=256, size=32, enlarged=6, settings=SMALL),
    "SD 1.5's autoencoder": Case(pictures=24, size=256, settings={}),
    "accelerator, 7 ms a picture": Case(pictures=2048, size=512, seconds=0.007),
    "accelerator, 2 ms a picture": Case(pictures=2048, size=512, seconds=0.002),
}


def measure_pictures(photos: Path, names: Sequence[str], rounds: int) -> None:
    """Add a row for each case; `photos` is a folder of JPEG files, which come again with other bytes."""
    torch.set_num_threads(cores())
    for name in names:
        case = CASES[name]
        with tempfile.TemporaryDirectory() as folder:
            shard = write_shard(Path(folder) / "photos.parquet", photos, case)
            encoder = StandIn(case.seconds) if case.settings is None else make_encoder(case.settings)
            row = {
                "device": device_name(torch.device("cpu")),
                "versions": versions(),
                "case": name,
                "pictures": case.pictures,
                "size": case.size,
                "decoders": cores(),
            }
            measured = Bench(Path(folder), shard, case.size, encoder).measure(rounds)
            append_row("encode_pictures", {**row, **measured, "load": os.getloadavg()[0]})


def make_encoder(settings: Mapping[str, Any]) -> LatentEncoder:
    """Make an autoencoder of SD 1.5's layout with random weights."""
    torch.manual_seed(0)
    return LatentEncoder(AutoencoderKL(**{**VAE, **settings}).requires_grad_(False).eval())


def write_shard(file: Path, photos: Path, case: Case) -> SourceShard:
    """Write a Parquet file of photographs; bytes behind a picture's end make it another one."""
    files = sorted(photos.glob("*.JPEG"))[: 24 if case.enlarged > 1 else None]
    data = [enlarged(photo, case.enlarged) for photo in files]
    pictures = [data[i % len(data)] + i.to_bytes(4, "little") for i in range(case.pictures)]
    captions = [f"caption {i % 64}" for i in range(case.pictures)]
    pq.write_table(pa.table({"jpg": pictures, "text": captions}), file)
    (shard,) = open_source(file)
    return shard


def enlarged(photo: Path, times: int) -> bytes:
    """Return a photograph's bytes, or those of one so many times as wide."""
    if times == 1:
        return photo.read_bytes()
    with Image.open(photo) as picture:
        large = picture.convert("RGB").resize((picture.width * times, picture.height * times))
    buffer = io.BytesIO()
    large.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


@dataclass
class Bench:
    """One autoencoder on one shard."""

    folder: Path
    shard: SourceShard
    size: int
    encoder: Any

    def measure(self, rounds: int) -> dict[str, Any]:
        """Return pictures a second of each stage alone, of all in turn, and of `encode_shard`: medians of rounds."""
        stages = {
            "decode": self.decode,
            "autoencoder": self.autoencoder,
            "in_turn": self.in_turn,
            "encode": self.encode,
        }
        rates: dict[str, list[float]] = {name: [] for name in stages}
        waiting = []
        for _ in range(rounds):
            for name, run in stages.items():
                self.slept(reset=True)
                made = self.new_store() if name in ("in_turn", "encode") else ()
                seconds = timed(lambda run=run, made=made: run(*made))
                rates[name].append(self.shard.count / seconds)
            waiting.append(1 - self.slept() / seconds)
        found = {name: median(values) for name, values in rates.items()}
        shares = [min(a, b) for a, b in zip(rates["decode"], rates["autoencoder"], strict=True)]
        stand_in = isinstance(self.encoder, StandIn)
        return {
            **{f"{name}_per_s": value for name, value in found.items()},
            "before_over_slowest": median(a / b for a, b in zip(rates["in_turn"], shares, strict=True)),
            "over_slowest": median(a / b for a, b in zip(rates["encode"], shares, strict=True)),
            "goal": GOAL_SHARE,
            "waiting": median(waiting) if stand_in else "",
            "waiting_goal": GOAL_WAITING if stand_in else "",
        }

    def slept(self, reset: bool = False) -> float:
        if not isinstance(self.encoder, StandIn):
            return 0.0
        if reset:
            self.encoder.slept = 0.0
        return self.encoder.slept

    def decode(self) -> None:
        """Read and decode alone, in as many threads as the pipeline has."""
        with ThreadPoolExecutor(cores()) as pool:
            for _ in pool.map(lambda row: load_image(row[1].image, self.size), self.shard.rows()):
                pass

    def autoencoder(self) -> None:
        """Run the autoencoder alone, on the same few pictures again and again."""
        squares = np.stack([load_image(row.image, self.size)[0] for _, row in islice(self.shard.rows(), AT_ONCE)])
        for start in range(0, self.shard.count, AT_ONCE):
            self.encoder(squares[: self.shard.count - start])

    def in_turn(self, store: EncodingStore, encoders: EncoderSet) -> None:
        """Encode one stage after the other, as `encode_shard` did before it worked in stages at once."""
        in_turn: Callable[..., None] = runpy.run_path(str(ROOT / "tests" / "data" / "sequential.py"))["encode_in_turn"]
        in_turn(store, self.shard, encoders)

    def encode(self, store: EncodingStore, encoders: EncoderSet) -> None:
        report = encode_shard(store, self.shard, encoders)
        assert report.latents == report.samples == self.shard.count

    def new_store(self) -> tuple[EncodingStore, EncoderSet]:
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        store = EncodingStore.create(folder / "store")
        return store, replace(prepare(store, NoText(), self.encoder, self.size, 1), threads=cores())


def timed(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
