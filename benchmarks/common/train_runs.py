"""What real runs of the worker cost: a step, a resumed one, memory, waiting for data, one process and two."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.real_training import Training, make_store
from common.train_bench import GB, WIDTH, Bench
from storage.reading.dataset import Batch, DatasetConfig, EncodingDataset


def measure_steps(bench: Bench) -> None:
    """Measure a step; kill the run; measure the next step in a new process, from the checkpoint."""
    config = bench.run("resumed", steps=2, checkpoint_every=1)
    setting = f"{bench.name}, worker process, fp32, ZeRO {config.zero_stage}, batch 1, latents 16x16, 2 threads"
    with Training(config) as run:
        run.wait_until((Path(config.output) / "checkpoints" / "step-00000001" / "manifest.json").exists)
        bench.add("training step", setting, run.step_seconds(run.rows()[0]), "s")
        bench.add("training step, peak memory with loading and saving", setting, run.peak() / GB, "GB", "", "<= 24 GB")
    with Training(config) as run:
        run.wait_until(lambda: len(run.rows()) == 2)
        peak = run.peak()
        run.wait_until(lambda: run.child.poll() is not None)
        assert [row["step"] for row in run.rows()] == [1, 2]
        bench.add("resumed step, after kill -9", setting, run.step_seconds(run.rows()[1]), "s")
        bench.add("resumed step, peak memory with loading", setting, peak / GB, "GB", "", "<= 24 GB")


def measure_memory(bench: Bench) -> None:
    """Measure the peaks of two steps, after the first; loading is not in them."""
    plain = {}
    for stage in (0, 1, 2, 3):
        setting, peak, _ = steady_peak(bench, f"zero{stage}", zero_stage=stage)
        plain[stage] = peak
        note = "1 process: what ZeRO would share out among more is all here"
        bench.add(f"peak memory of a step, ZeRO {stage}", f"{setting}; {note}", peak / GB, "GB", peak / plain[0])
    for checkpointing in (False, True):
        settings = {"gradient_checkpointing": checkpointing, "side": 32, "batch_size": 2}
        setting, peak, seconds = steady_peak(bench, f"recomputed-{checkpointing}", **settings)
        name = f"{'with' if checkpointing else 'without'} gradient checkpointing"
        plain[name] = peak
        first = plain["without gradient checkpointing"]
        bench.add(f"peak memory of a step, {name}", f"{setting}; {seconds:.3g} s a step", peak / GB, "GB", peak / first)


def steady_peak(bench: Bench, name: str, **settings: Any) -> tuple[str, int, float]:
    """Return the run in words, its peak in bytes after the first step, and seconds a step."""
    config = bench.run(name, steps=4, **settings)
    with Training(config) as run:
        run.wait_until(lambda: bool(run.rows()))
        run.reset_peak()
        run.wait_until(lambda: len(run.rows()) >= 3)
        peak, seconds = run.peak(), run.step_seconds(run.rows()[2])
    side = settings.get("side", 16)
    setting = f"{bench.name}, worker process, fp32, ZeRO {config.zero_stage}, batch {config.batch_size}"
    return f"{setting}, latents {side}x{side}", peak, seconds


def measure_wait(bench: Bench) -> None:
    """Measure waiting in the real worker; and with a sleep in place of a GPU's step, for a CPU's hides any reader."""
    config = bench.run("wait", steps=8)
    with Training(config) as run:
        run.wait_until(lambda: len(run.rows()) >= 7)
        share = float(np.mean([row["data_wait_share"] for row in run.rows()[1:7]]))
    bench.add(
        "data-wait share", f"{bench.name}, worker process, steps 2 to 7, batch 1", share, "of the step", "", "< 0.02"
    )
    samples = 256 if bench.quick else 4096
    lengths = np.random.default_rng(1).integers(8, 48, 997).tolist()
    fingerprint = make_store(bench.work / "store-64", samples, 64, WIDTH, lengths)
    data = EncodingDataset(bench.work / "store-64", DatasetConfig(fingerprint=fingerprint, batch_size=32))
    made = f"{samples} samples in the page cache, width {WIDTH}, 28 tokens on average, latents 64x64, batch 32"
    start = time.perf_counter()
    for batch in data.epoch(0):
        del batch
    bench.add("reader alone", made, samples / (time.perf_counter() - start), "images/s")
    for rate in (100, 250, 500):
        with no_threads():
            share = simulated_wait(data, 32 / rate)
        setting = f"a sleep in place of a GPU that takes {rate} images/s; {made}"
        bench.add("data-wait share, simulated step", setting, share, "of the step", "", "< 0.02")


def simulated_wait(data: EncodingDataset, seconds: float) -> float:
    """Return the share of an epoch spent waiting for batches, the first left out."""
    batches: Iterator[Batch] = data.epoch(1)
    next(batches)
    start, waited = time.perf_counter(), 0.0
    while True:
        asked = time.perf_counter()
        if next(batches, None) is None:
            return waited / (time.perf_counter() - start)
        waited += time.perf_counter() - asked
        time.sleep(seconds)


@contextmanager
def no_threads() -> Iterator[None]:
    """Leave one core to the reader, as a training process on a GPU has at the least."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def measure_scaling(bench: Bench) -> None:
    """Train with the same batch a process, a thread each: on two cores the second process brings its own core."""
    rates = {}
    for processes in (1, 2):
        config = bench.run(f"processes-{processes}", steps=5, threads=1)
        with Training(config, processes) as run:
            run.wait_until(lambda run=run: len(run.rows()) >= 4)
            rates[processes] = float(np.median([row["samples_per_second"] for row in run.rows()[1:4]]))
        setting = f"{bench.name}, fp32, ZeRO {config.zero_stage}, batch 1 a process, latents 16x16, 1 thread each"
        shared = "; 2 cores share memory bandwidth, and gloo reduces 182 MB of gradients through loopback"
        ratio, goal = (rates[2] / rates[1], "2 is ideal") if processes == 2 else ("", "")
        name = f"{processes} process{'es' * (processes > 1)}"
        bench.add(
            f"images a second, {name}", setting + shared * (processes > 1), rates[processes], "images/s", ratio, goal
        )
