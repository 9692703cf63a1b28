"""The train flow: an adapter from a pinned version of the store, in training processes that it starts and follows."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from infra.launch.errors import LaunchError
from infra.launch.hostfile import Topology, topology_of
from infra.launch.run import RUN_ID, run_training
from infra.tracking.run import RowReader, TrackedRun, WarningReader, tracked_run
from llmdiff.data.sources.folders.kohya import in_words
from llmdiff.training.config import LAYOUT_LOG, TrainConfig
from llmdiff.training.data.kohya import read_repeats
from llmdiff.training.lock import locked
from pipelines.requests.train import TrainRequest
from pipelines.runtime.artifacts import mlflow_run, show_mlflow_run, show_picture, show_text
from pipelines.runtime.progress import Progress, progress
from pipelines.runtime.recording import run_logger
from pipelines.runtime.stage import stage, task
from pipelines.runtime.train_run import finished_run, resolve_run


class TrainResult(BaseModel):
    """The result of a training run: its files, and what it reached."""

    model_config = ConfigDict(frozen=True)

    output: str
    adapter: str
    metrics: str
    run_id: str
    store_version: int
    fingerprint: str
    steps: int
    loss: float
    seconds: float
    before: bool = False
    """Whether an earlier call had finished the run."""


@stage("train")
def train_flow(request: TrainRequest) -> TrainResult:
    """Train an adapter; run again in the same way, it goes on from the last checkpoint, or finds it finished."""
    start = time.perf_counter()
    topology = topology_of(request.processes, request.hostfile, None if request.ssh else 0, request.master_port)
    config = resolve_config(request, topology)
    finished = finished_run(Path(config.output))
    if finished is None:
        run_id = train_adapter(request, config, topology)
        keep_samples(config, run_id)
        keep_weights(config, run_id)
        (Path(config.output) / RUN_ID).write_text(f"{run_id}\n")
    result = train_result(config, finished or run_id, time.perf_counter() - start, finished is not None)
    show(result)
    return result


@task("resolve settings")
def resolve_config(request: TrainRequest, topology: Topology) -> TrainConfig:
    """Pin all that the run depends on; see `pipelines.runtime.train_run.resolve_run`."""
    return resolve_run(request, topology)


@task("train adapter")
def train_adapter(request: TrainRequest, config: TrainConfig, topology: Topology) -> str:
    """Run the training processes, followed by MLflow; return the MLflow run's id."""
    output = Path(config.output)
    with locked(output, "flow.lock"):  # two flows would follow one run into MLflow twice
        config.write(config.path)
        request.save(output)
        announce_repeats(config)
        return follow_training(config, output, topology)


def announce_repeats(config: TrainConfig) -> None:
    """Say how often the pictures of which folders come in an epoch, where their names say it."""
    if config.kohya_repeats:
        line = f"repeats in an epoch: {in_words(read_repeats(config))}; 1 of all other sources"
        run_logger().info(line)
        print(line, file=sys.stderr)


def follow_training(config: TrainConfig, output: Path, topology: Topology) -> str:
    """Run the training and copy its logs to MLflow. The caller holds the folder's lock."""
    reader, warnings = RowReader(output / "metrics.jsonl"), WarningReader(output / "train.log")
    layouts = RowReader(output / LAYOUT_LOG)
    tags = {name: str(getattr(config, name)) for name in ("store", "store_id", "store_version", "fingerprint")}
    with tracked_run(f"train {output.name}", config.model_dump(mode="json"), tags) as run:
        show_mlflow_run("train-mlflow-run", run.run_id)
        with progress("train", config.steps, "step") as work:
            run_training(output, topology, poll=lambda: follow(reader, layouts, warnings, run, work))
        if not (output / "adapter" / "adapter.safetensors").exists():
            raise LaunchError(f"{output}: training ended early with its state saved: run it again to go on")
        run.keep(config.path)
        return run.run_id


def follow(reader: RowReader, layouts: RowReader, warnings: WarningReader, run: TrackedRun, work: Progress) -> None:
    """Pass new rows of ``metrics.jsonl`` and ``layout.jsonl`` on to MLflow and to whoever watches, and new warnings."""
    for warning in warnings.read():
        work.warn(warning)
    if rows := layouts.read():
        run.follow(rows)
        work.reach(0, "layout step {step} of {steps}, loss {layout_loss:.4f}".format(**rows[-1]))
    rows = reader.read()
    if rows:
        run.follow(rows)
        last = rows[-1]
        work.total = last.get("steps", work.total)
        if work.done == 0:  # the time left is of steps, without the processes' start
            work.count_from(last["step"])
        work.reach(last["step"], f"loss {last['loss']:.4f}")


@task("keep samples")
def keep_samples(config: TrainConfig, run_id: str) -> None:
    """Decode the validation samples into image grids, beside the run and in MLflow; damaged ones are passed over."""
    paths = sorted((Path(config.output) / "samples").glob("step-*.safetensors"))
    if not paths:
        return
    from infra.tracking.run import client
    from llmdiff.diffusion.latents import LatentEncoder, decode_samples
    from llmdiff.image_files import save_png
    from llmdiff.image_grid import image_grid

    latent_encoder = LatentEncoder.from_pretrained(config.base)
    grid = None
    for path in paths:
        try:
            rows = [(prompt, [image]) for prompt, image in decode_samples(path, latent_encoder)]
        except ValueError as error:
            run_logger().warning(str(error))
            print(f"warning: {error}", file=sys.stderr)
            continue
        grid = save_png(image_grid(rows, [path.stem]), path.with_suffix(".png"))
        client().log_artifact(run_id, str(grid), "samples")
    if grid is not None:
        show_picture("train-samples", f"Samples of {grid.stem}", grid)


@task("keep weights")
def keep_weights(config: TrainConfig, run_id: str) -> None:
    """Plot the weights of both paths by layer, the paper's Figure 6, beside the run and in MLflow."""
    from infra.tracking.run import client
    from pipelines.reports.demo import save_weights_plot

    output = Path(config.output)
    client().log_artifact(run_id, str(save_weights_plot(output / "metrics.jsonl", output / "weights.png")))


def train_result(config: TrainConfig, run_id: str, seconds: float, before: bool) -> TrainResult:
    """Return the flow's result, read from what the run wrote."""
    output = Path(config.output)
    rows = RowReader(output / "metrics.jsonl").read()
    if not rows:
        raise ValueError(f"{output / 'metrics.jsonl'}: expected the rows of a finished run, found none")
    last = rows[-1]
    return TrainResult(
        output=str(output),
        adapter=str(output / "adapter"),
        metrics=str(output / "metrics.jsonl"),
        run_id=run_id,
        store_version=config.store_version or 0,
        fingerprint=config.fingerprint,
        steps=last["step"],
        loss=last["loss"],
        seconds=seconds,
        before=before,
    )


def registered_before(result: TrainResult) -> bool:
    """Return whether an earlier call made a version of the run in the registry."""
    from infra.tracking.run import client

    return result.before and bool(client().search_model_versions(f"run_id='{result.run_id}'"))


@task("show run")
def show(result: TrainResult) -> None:
    """Sum the run up in the Prefect UI."""
    text = f"{result.steps} steps, loss {result.loss:.4f}, {result.seconds:.0f} s; {mlflow_run(result.run_id)}"
    show_text(text, key="train-run")
