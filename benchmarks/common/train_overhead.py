"""What a training step costs beyond the forward and backward pass of its U-Net and adapter, on the shapes benchmark."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import cycle, islice

import numpy as np
import torch
from transformers import AutoConfig, AutoTokenizer

from common.measure import quantiles
from common.real_training import make_store
from common.train_bench import Bench, ratio_of
from llmdiff.diffusion.base import training_target, unet_config
from llmdiff.shapes import DIFFUSION, LLAMA
from llmdiff.shapes.captions import PROMPT, caption
from llmdiff.shapes.shards import random_scene
from llmdiff.training.config import TrainConfig
from llmdiff.training.distributed import start
from llmdiff.training.ema import EMA
from llmdiff.training.loop import steps
from llmdiff.training.resolve import resolve
from llmdiff.training.setup import Run, prepare
from pipelines.runtime.shapes_benchmark import PROCESSES, TRAINING

BATCH = PROCESSES * TRAINING.batch_size  # as the demonstration trains each of its adapters, in one process
ROUND, WARM = 50, 10
"""Steps of a round: five rows of the log, and one look of the monitor; and those before the first."""


def measure_overhead(bench: Bench) -> None:
    """Real steps of the worker's own loop, in this process; after each, the bare passes that it can't do without."""
    size = 4 if bench.quick else ROUND
    rounds = 1 if bench.quick else bench.rounds
    config = shapes_run(bench, WARM + size * rounds)
    config.write(config.path)
    run = prepare(config, start(config))
    run.ema = between = Between(run)
    steps(run, [])
    whole, bare = (by_round(times[WARM:], size) for times in (between.whole, between.bare))
    ratio, spread = ratio_of(whole, bare)
    setting = f"shapes benchmark, one process, {config.threads} thread, fp32, ZeRO {config.zero_stage}, batch {BATCH}"
    setting += f"; bare: {quantiles(bare)[1]:.3g} CPU s; {spread}"
    bench.add("training step over bare forward and backward", setting, quantiles(whole)[1], "CPU s", ratio, "<= 1.15")


def shapes_run(bench: Bench, count: int) -> TrainConfig:
    """A run of so many steps with the demonstration's settings, on random encodings and latents of its sizes."""
    rng = np.random.default_rng(0)
    tokenizer = AutoTokenizer.from_pretrained(LLAMA)
    captions = [PROMPT.format(caption=caption(random_scene(rng), "natural", rng)) for _ in range(256)]
    lengths = [len(ids) + 1 for ids in tokenizer(captions)["input_ids"]]
    side = int(unet_config(str(DIFFUSION))["sample_size"])
    width = AutoConfig.from_pretrained(LLAMA).hidden_size
    paths = {"store": str(bench.work / "shapes"), "base": str(DIFFUSION), "output": str(bench.work / "shapes-run")}
    fingerprint = make_store(bench.work / "shapes", 512 if bench.quick else 6000, side, width, lengths)
    settings = TRAINING.model_dump() | {"batch_size": BATCH, "steps": count, "threads": bench.threads}
    return resolve(TrainConfig(**paths, fingerprint=fingerprint, **settings))


class Between(EMA):
    """A run's averages, after whose update, the last of a step's work, the bare passes follow."""

    def __init__(self, run: Run) -> None:
        vars(self).update(vars(run.ema))
        self.passes = bare_passes(run)
        self.whole: list[float] = []
        self.bare: list[float] = []
        self.since = time.process_time()

    def update(self, tensors: dict[str, torch.Tensor], step: int) -> None:
        """Also note what the step cost, all threads together, and what the passes did, of this thread."""
        super().update(tensors, step)
        self.whole.append(time.process_time() - self.since)
        began = time.thread_time()
        next(self.passes)
        self.bare.append(time.thread_time() - began)
        self.since = time.process_time()


def bare_passes(run: Run) -> Iterator[None]:
    """Forward and backward of the run's U-Net and adapter, on batches of its own, over and over."""
    adapter, (unet,) = run.objective.adapter, run.objective.frozen
    trained = [parameter for parameter in adapter.parameters() if parameter.requires_grad]
    for batch in cycle(islice(run.data.epoch(0), 8)):
        latents = batch.latents.float()
        noise, timesteps = torch.randn_like(latents), torch.randint(run.timesteps, (len(latents),))
        noisy = run.objective.schedule.add_noise(latents, noise, timesteps)
        target = training_target(run.objective.schedule, latents, noise, timesteps)
        loss = (unet(noisy, timesteps, adapter.context(batch.encodings, batch.mask)).sample - target).square().mean()
        torch.autograd.grad(loss, trained, allow_unused=True)
        yield


def by_round(times: list[float], size: int) -> list[float]:
    """The mean of each round's steps."""
    return np.reshape(times, (-1, size)).mean(1).tolist()
