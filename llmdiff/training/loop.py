"""Train the adapter: fetch, loss, backward, step, log, save."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path

import torch.distributed as dist

from llmdiff.training.config import TrainConfig
from llmdiff.training.data.rank_batches import RankBatch, endless
from llmdiff.training.distributed import gathered, start
from llmdiff.training.lock import locked
from llmdiff.training.metrics import MetricLogger
from llmdiff.training.monitor import EVERY, TrainingMonitor, captions_truncated, compare, nan_inputs, share_at_limit
from llmdiff.training.objective import part_of, plain_attention, sample_generators, split
from llmdiff.training.optimiser.adamw_8bit import set_rate
from llmdiff.training.optimiser.learning_rate import learning_rate
from llmdiff.training.setup import Run, prepare


def train(config: TrainConfig) -> Path | None:
    """Run, or resume, a training run on every process.

    Returns the folder of the adapter; None where a SIGTERM ended the run early, with its state saved.
    """
    device = start(config)
    with interruption() as interrupted, locked(config.output) if dist.get_rank() == 0 else nullcontext():
        return steps(prepare(config, device, interrupted), interrupted)


def steps(run: Run, interrupted: list[int]) -> Path | None:
    """Take all steps that are left, and return the result."""
    config, adapter = run.config, run.objective.adapter
    metrics = MetricLogger(Path(config.output) / "metrics.jsonl", run.state, run.steps, run.timesteps, run.device)
    batches = endless(run.data, run.state.epoch, run.state.position, run.state.where)
    in_a_row, monitor = 0, TrainingMonitor(speaks=run.rank == 0)
    monitor.report(captions_truncated(*share_at_limit(run.data.store, config.fingerprint)))
    with closing(metrics), closing(batches), plain_attention(run.device):
        if run.any_process(bool(interrupted)):
            return None
        for step in range(run.state.step + 1, run.steps + 1):
            rate = set_learning_rate(run, step)
            rank_batch = timed(batches, metrics)
            applied = update(run, rank_batch, metrics)
            if applied:
                with gathered(adapter):
                    run.ema.update(adapter.state(), step)
            else:
                metrics.skip(step)
                monitor.report(nan_inputs(rank_batch.batch))
            in_a_row = 0 if run.scale.update(applied) else in_a_row + 1
            metrics.advance()
            if step % config.log_every == 0 or step == run.steps:
                metrics.row(step, adapter, learning_rate=rate, grad_norm=float(run.engine.get_global_grad_norm()))
            if step % EVERY == 0:
                part = part_of(rank_batch.batch, 0, config.batch_size)
                monitor.look(step, part, *compare(run.objective, part, rank_batch.epoch))
            if config.sample_every is not None and step % config.sample_every == 0:
                run.sample(step)
            stop = run.any_process(bool(interrupted))
            broken = in_a_row == config.skip_limit
            if step % config.checkpoint_every == 0 or step == run.steps or stop or broken:
                run.save(step, rank_batch.epoch, rank_batch.batch.seen, metrics)
            if broken:
                raise FloatingPointError(
                    f"step {step}: {in_a_row} steps in a row had a loss or gradient that is not finite, and were left "
                    f"out; {run.checkpoints} has the last good state"
                )
            if stop and step < run.steps:
                return None
    return run.save_adapter()


def update(run: Run, rank_batch: RankBatch, metrics: MetricLogger) -> bool:
    """Take one step of the optimiser; return False where it was left out, on every process alike."""
    logged = []
    for batch, counts in split(rank_batch.batch, run.config.accumulate):
        factor = run.config.accumulate * run.processes / rank_batch.samples if counts else 0.0
        generators = sample_generators(run.config.seed, rank_batch.epoch, batch, run.device)
        loss, *values = run.engine(batch, generators, factor)
        run.scale.backward(loss)
        run.engine.step()
        if counts:
            logged.append(values)
    applied: bool = run.engine.was_step_applied()
    if applied:
        for values in logged:
            metrics.add(*values)
    return applied


def set_learning_rate(run: Run, step: int) -> float:
    """Give the optimiser the rate of this step, and return it."""
    rate = learning_rate(run.config, step, run.steps)
    for group in run.engine.optimizer.param_groups:
        set_rate(group, rate)
    return rate


def timed(batches: Iterator[RankBatch], metrics: MetricLogger) -> RankBatch:
    """Return the next batch, and count the time spent waiting for it in `metrics.waited`."""
    start = time.perf_counter()
    rank_batch = next(batches)
    metrics.waited += time.perf_counter() - start
    return rank_batch


@contextmanager
def interruption() -> Iterator[list[int]]:
    """Yield a list that gets an item on a SIGTERM, so that the process can save before it ends."""
    received: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    try:
        yield received
    finally:
        signal.signal(signal.SIGTERM, before)
