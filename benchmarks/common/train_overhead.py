"""What a training step costs on the shapes benchmark: beyond its passes, and beside one of layout pre-training."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoTokenizer

from common.measure import quantiles
from common.real_training import make_store
from common.train_bench import Bench, ratio_of
from llmdiff.adapter import AdapterSettings
from llmdiff.diffusion.base import training_target, unet_config
from llmdiff.shapes import DIFFUSION, LLAMA
from llmdiff.shapes.captions import PROMPT, caption
from llmdiff.shapes.shards import random_scene
from llmdiff.training.config import TrainConfig
from llmdiff.training.distributed import start
from llmdiff.training.layout import pretrain_layout
from llmdiff.training.loop import steps
from llmdiff.training.optimiser.ema import EMA
from llmdiff.training.resolve import resolve
from llmdiff.training.setup import Run, open_layout_data, prepare
from pipelines.runtime.shapes_benchmark import PROCESSES, TRAINING

BATCH = PROCESSES * TRAINING.batch_size  # the demonstration's, which trains each adapter in one process
ROUND, WARM = 50, 10
"""Number of steps of a round: five rows of the log, and one look of the monitor; and of those before the first."""
LAYOUT_STEPS, SMOLLM2_WIDTH = 4, 576


def measure_overhead(bench: Bench) -> None:
    """Run real steps of the worker's loop, in this process; after each, the bare passes that it can't do without."""
    config, whole, bare = in_turns(bench, PROMPT, AutoConfig.from_pretrained(LLAMA).hidden_size, bare_passes)
    ratio, spread = ratio_of(whole, bare)
    setting = f"{words(config)}; bare: {quantiles(bare)[1]:.3g} CPU s; {spread}"
    bench.add("training step over bare forward and backward", setting, quantiles(whole)[1], "CPU s", ratio, "<= 1.15")


def measure_layout(bench: Bench) -> None:
    """Run steps with a refiner, on encodings as wide as SmolLM2's; after each, some of layout pre-training."""
    settings = {"adapter": AdapterSettings(refiner=2, standardise=True), "layout_steps": LAYOUT_STEPS}
    config, whole, layout = in_turns(bench, "{caption}", SMOLLM2_WIDTH, layout_passes, **settings)
    layout = [one / LAYOUT_STEPS for one in layout]
    ratio, spread = ratio_of(layout, whole)
    setting = f"{words(config)}, refiner 2; {config.layout_batch_size} layouts; training step: "
    setting += f"{quantiles(whole)[1]:.3g} CPU s; {spread}"
    bench.add("step of layout pre-training over training step", setting, quantiles(layout)[1], "CPU s", ratio)


def in_turns(
    bench: Bench, template: str, width: int, passes: Callable[[Run], Iterator[None]], **settings: Any
) -> tuple[TrainConfig, list[float], list[float]]:
    """Return a run, and by its rounds what a step of it costs, and what the passes cost that come after each."""
    size = 4 if bench.quick else ROUND
    config = shapes_run(bench, WARM + size * (1 if bench.quick else bench.rounds), template, width, **settings)
    config.write(config.path)
    run = prepare(config, start(config))
    run.ema = between = Between(run, passes(run))
    steps(run, [])
    whole, others = (by_round(times[WARM:], size) for times in (between.whole, between.others))
    return config, whole, others


def words(config: TrainConfig) -> str:
    return f"shapes benchmark, one process, {config.threads} thread, fp32, ZeRO {config.zero_stage}, batch {BATCH}"


def shapes_run(bench: Bench, count: int, template: str, width: int, **changes: Any) -> TrainConfig:
    """Return a run of so many steps with the demonstration's settings, on random encodings and latents of its sizes."""
    rng = np.random.default_rng(0)
    tokenizer = AutoTokenizer.from_pretrained(LLAMA)
    captions = [template.format(caption=caption(random_scene(rng), "natural", rng)) for _ in range(256)]
    lengths = [len(ids) + 1 for ids in tokenizer(captions)["input_ids"]]
    side = int(unet_config(str(DIFFUSION))["sample_size"])
    store = bench.work / f"shapes-{width}"
    paths = {"store": str(store), "base": str(DIFFUSION), "output": f"{store}-run"}
    fingerprint = make_store(store, 512 if bench.quick else 6000, side, width, lengths)
    settings = TRAINING.model_dump() | {"batch_size": BATCH, "steps": count, "threads": bench.threads} | changes
    return resolve(TrainConfig(**paths, fingerprint=fingerprint, **settings))


class Between(EMA):
    """A run's averages, whose update, the last of a step's work, also runs other passes."""

    def __init__(self, run: Run, passes: Iterator[None]) -> None:
        vars(self).update(vars(run.ema))
        self.passes = passes
        self.whole: list[float] = []
        self.others: list[float] = []
        self.since = time.process_time()

    def update(self, tensors: dict[str, torch.Tensor], step: int) -> None:
        """Update the averages; note what the step cost, of all threads, and what the passes cost, of this thread."""
        super().update(tensors, step)
        self.whole.append(time.process_time() - self.since)
        began = time.thread_time()
        next(self.passes)
        self.others.append(time.thread_time() - began)
        self.since = time.process_time()


def bare_passes(run: Run) -> Iterator[None]:
    """Run U-Net and adapter forward and backward, on batches of their own, over and over."""
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


def layout_passes(run: Run) -> Iterator[None]:
    """Run some steps of layout pre-training each time, of an adapter that DeepSpeed does not watch."""
    objective, data = copy.deepcopy(run.objective), open_layout_data(run.config)
    while True:
        pretrain_layout(objective, data, run.device)
        yield


def by_round(times: list[float], size: int) -> list[float]:
    """Return the mean of each round's steps."""
    return np.reshape(times, (-1, size)).mean(1).tolist()
