"""Trains the adapter: fetch, loss, backward, step, log, save."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch.distributed as dist

from llmdiff.training.config import TrainConfig
from llmdiff.training.distributed import gathered, start
from llmdiff.training.lock import locked
from llmdiff.training.metrics import MetricLogger
from llmdiff.training.monitor import EVERY, TrainingMonitor, captions_truncated, compare, nan_inputs, share_at_limit
from llmdiff.training.objective import part_of, plain_attention, sample_generators, split
from llmdiff.training.setup import Run, prepare

if TYPE_CHECKING:
    from storage.reading.dataset import Batch


def train(config: TrainConfig) -> Path | None:
    """Runs, or resumes, a training run on every process.

    Returns the folder of the adapter; None where a SIGTERM ended the run early, with its state saved.
    """
    device = start(config)
    with interruption() as interrupted, locked(config.output) if dist.get_rank() == 0 else nullcontext():
        return steps(prepare(config, device), interrupted)


def steps(run: Run, interrupted: list[int]) -> Path | None:
    """All steps that are left, and the result."""
    config, adapter = run.config, run.objective.adapter
    meter = MetricLogger(Path(config.output) / "metrics.jsonl", run.state, run.steps, run.timesteps, run.device)
    shares, in_a_row, watch = endless(run), 0, TrainingMonitor(speaks=run.rank == 0)
    watch.tell(captions_truncated(*share_at_limit(run.data.store, config.fingerprint)))
    with closing(meter), closing(shares), plain_attention(run.device):
        if run.any_process(bool(interrupted)):
            return None
        for step in range(run.state.step + 1, run.steps + 1):
            rate = set_learning_rate(run, step)
            share = timed(shares, meter)
            applied = update(run, share, meter)
            if applied:
                with gathered(adapter):
                    run.average.update(adapter.state(), step)
            else:
                meter.skip(step)
                watch.tell(nan_inputs(share.batch))
            in_a_row = 0 if run.scale.update(applied) else in_a_row + 1
            meter.advance()
            if step % config.log_every == 0 or step == run.steps:
                meter.row(step, adapter, learning_rate=rate, grad_norm=float(run.engine.get_global_grad_norm()))
            if step % EVERY == 0:
                part = part_of(share.batch, 0, config.batch_size)
                watch.look(step, part, *compare(run.objective, part, share.epoch))
            if config.sample_every is not None and step % config.sample_every == 0:
                run.sample(step)
            stop = run.any_process(bool(interrupted))
            broken = in_a_row == config.skip_limit
            if step % config.checkpoint_every == 0 or step == run.steps or stop or broken:
                run.save(step, share.epoch, share.batch.position, meter)
            if broken:
                raise FloatingPointError(
                    f"step {step}: {in_a_row} steps in a row had a loss or gradient that is not finite, and were left "
                    f"out; {run.checkpoints} has the last good state"
                )
            if stop and step < run.steps:
                return None
    return run.save_adapter()


def update(run: Run, share: RankBatch, meter: MetricLogger) -> bool:
    """One step of the optimiser on this process's share; False where it was left out, on every process alike."""
    logged = []
    for batch, counts in split(share.batch, run.config.accumulate):
        factor = run.config.accumulate * run.processes / share.samples if counts else 0.0
        generators = sample_generators(run.config.seed, share.epoch, batch, run.device)
        loss, *values = run.engine(batch, generators, factor)
        run.scale.backward(loss)
        run.engine.step()
        if counts:
            logged.append(values)
    applied: bool = run.engine.was_step_applied()
    if applied:
        for values in logged:
            meter.add(*values)
    return applied


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


class RankBatch(NamedTuple):
    """What this process does of one step."""

    epoch: int
    batch: Batch
    samples: int
    """Of the step, over all processes."""


def endless(run: Run) -> Generator[RankBatch]:
    """This process's shares from where the run is on, epoch after epoch."""
    epoch, position = run.state.epoch, run.state.position
    while True:
        for batch in run.data.epoch(epoch, position=position):
            yield RankBatch(epoch, batch, batch.position - position)
            position = batch.position
        epoch, position = epoch + 1, 0


def timed(shares: Iterator[RankBatch], meter: MetricLogger) -> RankBatch:
    """The next share; the time spent waiting for it counts as waited."""
    start = time.perf_counter()
    share = next(shares)
    meter.waited += time.perf_counter() - start
    return share


@contextmanager
def interruption() -> Iterator[list[int]]:
    """A list that fills when the process is asked to end, so that it can save first."""
    received: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    try:
        yield received
    finally:
        signal.signal(signal.SIGTERM, before)
