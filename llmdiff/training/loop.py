"""Trains the adapter: fetch, loss, backward, step, log, save."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from llmdiff.training import checkpoint
from llmdiff.training.config import TrainConfig
from llmdiff.training.distributed import gathered
from llmdiff.training.metrics import Meter
from llmdiff.training.objective import plain_attention, step_generator
from llmdiff.training.setup import Run, prepare

if TYPE_CHECKING:
    from storage.reader import Batch


def train(config: TrainConfig) -> Path | None:
    """Runs, or resumes, a training run on every process.

    Returns the folder of the adapter; None where a SIGTERM ended the run early, with its state saved.
    """
    run = prepare(config)
    engine, objective, average = run.engine, run.objective, run.average
    checkpoints = Path(config.output) / "checkpoints"
    first, sums = checkpoint.resume(checkpoints, engine, average)
    meter = Meter(Path(config.output) / "metrics.jsonl", first, sums, run.steps, run.timesteps, run.device)
    batches = endless(run, first * config.accumulate)
    with interruption() as interrupted, closing(meter), closing(batches), plain_attention(run.device):
        for step in range(first + 1, run.steps + 1):
            rate = set_learning_rate(run, step)
            for micro in range((step - 1) * config.accumulate, step * config.accumulate):
                batch = timed(batches, meter)
                loss, losses, timesteps = engine(batch, step_generator(config.seed, micro, run.rank, run.device))
                stop, broken = run.any_process(bool(interrupted), not loss.isfinite())
                if broken:
                    raise FloatingPointError(
                        f"step {step}: the loss is not finite; {checkpoints} has the last good state"
                    )
                engine.backward(loss)
                engine.step()
                meter.add(loss, losses, timesteps)
            with gathered(objective.adapter):
                average.update(objective.adapter.state(), step)
            meter.advance()
            if step % config.log_every == 0 or step == run.steps:
                norm = engine.get_global_grad_norm()  # None with ZeRO 0
                meter.row(step, objective.adapter, learning_rate=rate, grad_norm=None if norm is None else float(norm))
            if config.sample_every is not None and step % config.sample_every == 0:
                run.sample(step)
            if step % config.checkpoint_every == 0 or step == run.steps or stop:
                checkpoint.save(checkpoints, step, engine, average, meter.total(), config.keep_checkpoints)
            if stop and step < run.steps:
                return None
    return run.save_adapter()


def learning_rate(config: TrainConfig, step: int, steps: int) -> float:
    """Of step 1 to `steps`: linear warm-up, then half a cosine down to 0."""
    if step <= config.warmup:
        return config.learning_rate * step / config.warmup
    progress = (step - config.warmup) / max(1, steps + 1 - config.warmup)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


def set_learning_rate(run: Run, step: int) -> float:
    """Gives the optimiser the rate of this step, and returns it."""
    rate = learning_rate(run.config, step, run.steps)
    for group in run.engine.optimizer.param_groups:
        group["lr"] = rate
    return rate


def endless(run: Run, position: int) -> Generator[Batch]:
    """This process's batches from the `position`-th of the run on, epoch after epoch."""
    epoch, start = divmod(position, run.data.batches_per_epoch)
    while True:
        yield from run.data.epoch(epoch, start=start)
        epoch, start = epoch + 1, 0


def timed(batches: Iterator[Batch], meter: Meter) -> Batch:
    """The next batch; the time spent waiting for it counts as waited."""
    start = time.perf_counter()
    batch = next(batches)
    meter.waited += time.perf_counter() - start
    return batch


@contextmanager
def interruption() -> Iterator[list[int]]:
    """A list that fills when the process is asked to end, so that it can save first."""
    received: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    try:
        yield received
    finally:
        signal.signal(signal.SIGTERM, before)
