"""The train flow: an adapter from a pinned version of the store, in processes that DeepSpeed's launcher starts."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from pathlib import Path
from typing import Annotated, Any, Literal

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from pydantic import BaseModel, ConfigDict, Field

from infra.environment import home
from infra.launch.errors import LaunchError
from infra.launch.hostfile import MASTER_PORT, Topology, topology_of
from infra.launch.run import RUN_ID, is_finished, run_training
from infra.tracking.lineage import hub_revision
from infra.tracking.run import RowReader, TrackedRun, WarningReader, tracked_run
from llmdiff.folders import check_base
from llmdiff.training.config import FREE, TrainConfig, TrainSettings
from llmdiff.training.lock import locked
from llmdiff.training.state import complete, read_state
from pipelines.runtime.artifacts import mlflow_run, show_mlflow_run, show_picture
from pipelines.runtime.init_checkpoint import check_start, resolve_parent
from pipelines.runtime.progress import Progress, progress
from storage import EncodingStore

STEPS = 1000
"""Of a run whose settings name neither steps nor epochs."""


class TrainResult(BaseModel):
    """Where a training run left what."""

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
    """Whether an earlier call had finished it."""


@flow(name="train")
def train_flow(
    store: str,
    diffusion: str,
    output: str | None = None,
    encoder: Literal["llm", "base"] = "llm",
    fingerprint: str | None = None,
    store_version: int | None = None,
    processes: Annotated[int, Field(ge=1)] = 1,
    settings: TrainSettings = TrainSettings(),
    llm: str | None = None,
    llm_revision: str | None = None,
    restart: bool = False,
    hostfile: str | None = None,
    ssh: bool = True,
    master_port: int = MASTER_PORT,
) -> TrainResult:
    """Trains an adapter; run again in the same way, it goes on from the last checkpoint, or finds it finished.

    Args:
        store: folder of the encoding store.
        diffusion: folder or name of the base diffusion model.
        output: folder of the run; None is one below the folder of runs, the same one for the same arguments.
        encoder: whose encodings: "llm", or "base" for the control.
        fingerprint: which encodings, where the store has several of that kind.
        store_version: the snapshot to train on; None is the one that the run began with, or the newest.
        processes: on this machine; with a hostfile, its slots count.
        settings: steps, batch size, learning rate, ...
        llm: name or folder of the LLM behind the encodings, recorded with the adapter.
        llm_revision: its commit on the hub; None finds it in the hub's cache.
        restart: removes what the run left, and begins again.
        hostfile: DeepSpeed's list of hosts; the run's folder is on a path that all of them share.
        ssh: whether the hosts are reached from here; else this is the first, and ``llmdiff train --node-rank`` runs on
            each of the others.
        master_port: on the first host of the hostfile.
    """
    start = time.perf_counter()
    topology = topology_of(processes, hostfile, None if ssh else 0, master_port)
    processes = topology.processes
    lineage = {"llm": llm or "", "llm_revision": llm_revision or hub_revision(llm)}
    config = resolve_config(
        store, diffusion, output, encoder, fingerprint, store_version, settings, processes, restart, lineage
    )
    finished = finished_run(config, processes)
    if finished is None:
        run_id = train_adapter(config, topology)
        keep_samples(config, run_id)
        keep_weights(config, run_id)
        (Path(config.output) / RUN_ID).write_text(f"{run_id}\n")
    result = train_result(config, finished or run_id, time.perf_counter() - start, finished is not None)
    show(result)
    return result


@task(name="resolve settings", cache_policy=NO_CACHE)
def resolve_config(
    store: str,
    diffusion: str,
    output: str | None,
    encoder: Literal["llm", "base"],
    fingerprint: str | None,
    store_version: int | None,
    settings: TrainSettings,
    processes: int,
    restart: bool,
    lineage: dict[str, str],
) -> TrainConfig:
    """The whole configuration, with the folder, the snapshot and the encodings it is to read pinned."""
    from llmdiff.diffusion.base import is_xl, unet_config

    check_base(diffusion, "unet", "scheduler")
    xl = is_xl(unet_config(diffusion))
    named = {"store": store, "store_version": store_version, "fingerprint": fingerprint or "", "base": diffusion}
    draft = drafted(settings, {**named, **lineage, **resolve_parent(settings.start_from), "output": output or ""})
    folder = Path(output) if output is not None else home() / "train" / run_name(draft, encoder, processes)
    if restart:
        clear(folder)
    opened = EncodingStore.open(store, version=pinned_version(folder, store_version))
    found = {
        "store_version": opened.version,
        "fingerprint": find_fingerprint(opened, encoder, fingerprint),
        "output": str(folder),
    }
    if draft.adapter.base_context == "clip":
        found["base_fingerprint"] = find_fingerprint(opened, "base", draft.base_fingerprint or None)
    if xl:
        found["pooled_fingerprint"] = find_fingerprint(opened, "pooled", draft.pooled_fingerprint)
    config = draft.model_copy(update=found)
    check_start(config)
    return config


def drafted(settings: TrainSettings, named: dict[str, Any]) -> TrainConfig:
    """A configuration whose fingerprints may be missing yet."""
    values = {**settings.model_dump(), **named}
    if settings.steps is None and settings.epochs is None:
        values["steps"] = STEPS
    if settings.adapter.base_context == "clip":
        values["base_fingerprint"] = settings.base_fingerprint or ""
    return TrainConfig(**values)


def run_name(draft: TrainConfig, encoder: str, processes: int) -> str:
    """A folder's name for a run: the same for all that may go on with it."""
    settings = draft.model_dump(mode="json", exclude=set(FREE))
    settings |= {"encoder": encoder, "samples": draft.batch_size * draft.accumulate * processes}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    return f"{draft.store.rstrip('/').rpartition('/')[2]}-{encoder}-{digest[:8]}"


def pinned_version(folder: Path, wanted: int | None) -> int | None:
    """The snapshot that a run began with, if it did; ValueError where another one is wanted."""
    path = folder / "request.json"
    began = TrainConfig.read(path).store_version if path.exists() else wanted
    if wanted not in (None, began):
        raise ValueError(
            f"{folder}: the run began with store version {began}, found {wanted}: leave the version out to go on, "
            "restart, or use another output"
        )
    return began


def clear(folder: Path) -> None:
    """Removes what a run left, and nothing else."""
    if not folder.exists():
        return
    with locked(folder):
        for name in ("checkpoints", "samples", "adapter", "adapter-raw"):
            shutil.rmtree(folder / name, ignore_errors=True)
        for name in ("config.json", "request.json", "metrics.jsonl", "weights.png", RUN_ID):
            (folder / name).unlink(missing_ok=True)
        for log in folder.glob("train*.log"):
            log.unlink()


def find_fingerprint(store: EncodingStore, kind: str, wanted: str | None) -> str:
    """The fingerprint of the store's only encodings of a kind, or the wanted one if the store has it."""
    known = {key: about.get("kind") for key, about in store.fingerprints().items()}
    found = [key for key in known if (key == wanted if wanted is not None else known[key] == kind)]
    if len(found) != 1:
        expected = f"encodings {wanted}" if wanted is not None else f'one kind of "{kind}" encodings'
        how = "encode again with --diffusion of this base" if kind == "pooled" else "encode first"
        raise ValueError(f"{store.path}: expected {expected}, found {known}: {how}, or name a fingerprint")
    return found[0]


def finished_run(config: TrainConfig, processes: int) -> str | None:
    """The MLflow run of a run that has its result; None where there is something left to do."""
    folder = Path(config.output)
    config.check_same(folder / "config.json")
    if not is_finished(folder):
        return None
    for last in complete(folder / "checkpoints")[-1:]:
        read_state(last).check_batch(config, processes)
    return (folder / RUN_ID).read_text().strip()


@task(name="train adapter", cache_policy=NO_CACHE)
def train_adapter(config: TrainConfig, topology: Topology) -> str:
    """Runs the training processes, followed by MLflow; returns the MLflow run's id."""
    output = Path(config.output)
    with locked(output, "flow.lock"):  # two flows would follow one run into MLflow twice
        return follow_training(config, output, topology)


def follow_training(config: TrainConfig, output: Path, topology: Topology) -> str:
    """The same, in a folder that nobody else follows."""
    config.write(output / "request.json")
    reader, warnings = RowReader(output / "metrics.jsonl"), WarningReader(output / "train.log")
    tags = {"store": config.store, "store_version": str(config.store_version), "fingerprint": config.fingerprint}
    with tracked_run(f"train {output.name}", config.model_dump(mode="json"), tags) as run:
        show_mlflow_run("train-mlflow-run", run.run_id)
        with progress("train", config.steps, "step") as work:
            run_training(output, topology, poll=lambda: follow(reader, warnings, run, work))
        if not (output / "adapter" / "adapter.safetensors").exists():
            raise LaunchError(f"{output}: training ended early with its state saved: run it again to go on")
        run.keep(output / "config.json")
        return run.run_id


def follow(reader: RowReader, warnings: WarningReader, run: TrackedRun, work: Progress) -> None:
    """Passes new rows of ``metrics.jsonl`` on to MLflow and to whoever watches, and new warnings."""
    for warning in warnings.read():
        work.warn(warning)
    rows = reader.read()
    if rows:
        run.follow(rows)
        last = rows[-1]
        work.total = last.get("steps", work.total)
        if work.done == 0:  # the time left is of steps, without the processes' start
            work.count_from(last["step"])
        work.reach(last["step"], f"loss {last['loss']:.4f}")


@task(name="keep samples", cache_policy=NO_CACHE)
def keep_samples(config: TrainConfig, run_id: str) -> None:
    """Decodes the validation samples into sheets, beside the run and in MLflow."""
    paths = sorted((Path(config.output) / "samples").glob("step-*.safetensors"))
    if not paths:
        return
    from infra.tracking.run import client
    from llmdiff.diffusion.latents import LatentEncoder, decode_samples
    from llmdiff.image_files import save_png
    from llmdiff.image_grid import image_grid

    latent_encoder = LatentEncoder.from_pretrained(config.base)
    for path in paths:
        rows = [(prompt, [image]) for prompt, image in decode_samples(path, latent_encoder)]
        sheet = save_png(image_grid(rows, [path.stem]), path.with_suffix(".png"))
        client().log_artifact(run_id, str(sheet), "samples")
    show_picture("train-samples", f"Samples of {paths[-1].stem}", sheet)


@task(name="keep weights", cache_policy=NO_CACHE)
def keep_weights(config: TrainConfig, run_id: str) -> None:
    """Plots the weights of both paths by layer, the paper's Figure 6, beside the run and in MLflow."""
    from infra.tracking.run import client
    from pipelines.reports.demo import save_weights_plot

    output = Path(config.output)
    client().log_artifact(run_id, str(save_weights_plot(output / "metrics.jsonl", output / "weights.png")))


def train_result(config: TrainConfig, run_id: str, seconds: float, before: bool) -> TrainResult:
    """What the flow returns, read from what the run wrote."""
    output = Path(config.output)
    last = RowReader(output / "metrics.jsonl").read()[-1]
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
    """Whether an earlier call made a version of the run in the registry."""
    from infra.tracking.run import client

    return result.before and bool(client().search_model_versions(f"run_id='{result.run_id}'"))


@task(name="show run", cache_policy=NO_CACHE)
def show(result: TrainResult) -> None:
    """Sums the run up in the Prefect UI."""
    text = f"{result.steps} steps, loss {result.loss:.4f}, {result.seconds:.0f} s; {mlflow_run(result.run_id)}"
    create_markdown_artifact(text, key="train-run")
