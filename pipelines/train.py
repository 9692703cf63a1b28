"""The train flow: an adapter from a pinned version of the store, in processes that DeepSpeed's launcher starts."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Literal

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from pydantic import BaseModel, ConfigDict, ValidationError

from infra.launch import LaunchError, run_workers
from infra.local import home
from infra.tracking import RowReader, TrackedRun, tracked_run
from llmdiff.folders import check_base
from llmdiff.training.config import TrainConfig
from pipelines.progress import progress
from pipelines.settings import one_line
from storage import EncodingStore


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


@flow(name="train")
def train_flow(
    store: str,
    diffusion: str,
    output: str | None = None,
    encoder: Literal["llm", "base"] = "llm",
    fingerprint: str | None = None,
    store_version: int | None = None,
    processes: int = 1,
    settings: dict[str, Any] | None = None,
) -> TrainResult:
    """Trains an adapter; run again with the same output, it goes on from the last checkpoint.

    Args:
        store: folder of the encoding store.
        diffusion: folder or name of the base diffusion model.
        output: folder of the run; None makes one below the folder of runs.
        encoder: whose encodings: "llm", or "base" for the control.
        fingerprint: which encodings, where the store has several of that kind.
        store_version: the snapshot to train on; None pins the newest.
        processes: on this machine.
        settings: of `llmdiff.training.config.TrainConfig`: steps, batch_size, learning_rate, ...
    """
    start = time.perf_counter()
    config = resolve_config(store, diffusion, output, encoder, fingerprint, store_version, settings)
    run_id = train_adapter(config, processes)
    keep_samples(config, run_id)
    result = train_result(config, run_id, time.perf_counter() - start)
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
    settings: dict[str, Any] | None,
) -> TrainConfig:
    """The whole configuration, with the snapshot and the encodings it is to read pinned."""
    settings = {"steps": 1000, **(settings or {})} if "epochs" not in (settings or {}) else dict(settings or {})
    opened = EncodingStore.open(store, version=store_version)
    check_base(diffusion, "unet", "scheduler")
    adapter = settings.get("adapter")
    if isinstance(adapter, dict) and adapter.get("base_context") == "clip":
        settings.setdefault("base_fingerprint", find_fingerprint(opened, "base", None))
    named = {
        "store": store,
        "store_version": opened.version,
        "fingerprint": find_fingerprint(opened, encoder, fingerprint),
        "base": diffusion,
        "output": output or str(home() / "train" / time.strftime("%Y%m%d-%H%M%S")),
    }
    try:
        return TrainConfig(**{**settings, **named})
    except ValidationError as error:
        raise ValueError(f"training settings: {one_line(error, TrainConfig)}") from error


def find_fingerprint(store: EncodingStore, kind: str, wanted: str | None) -> str:
    """The fingerprint of the store's only encodings of a kind, or the wanted one if the store has it."""
    known = {key: about.get("kind") for key, about in store.fingerprints().items()}
    found = [key for key in known if (key == wanted if wanted is not None else known[key] == kind)]
    if len(found) != 1:
        expected = f"encodings {wanted}" if wanted is not None else f'one kind of "{kind}" encodings'
        raise ValueError(f"{store.path}: expected {expected}, found {known}: encode first, or name a fingerprint")
    return found[0]


@task(name="train adapter", cache_policy=NO_CACHE)
def train_adapter(config: TrainConfig, processes: int) -> str:
    """Runs the training processes, followed by MLflow; returns the MLflow run's id."""
    output = Path(config.output)
    request = config.write(output / "request.json")
    reader = RowReader(output / "metrics.jsonl")
    tags = {"store": config.store, "store_version": str(config.store_version), "fingerprint": config.fingerprint}
    with tracked_run(f"train {output.name}", config.model_dump(mode="json"), tags) as run:
        with progress("train", config.steps, "step") as bar:
            run_workers(
                "llmdiff.training.worker",
                ["--config", str(request), "--debug"],  # into the log, and where this command is told --debug
                processes=processes,
                log=output / "train.log",
                poll=lambda: follow(reader, run, bar),
            )
        if not (output / "adapter" / "adapter.safetensors").exists():
            raise LaunchError(f"{output}: training ended early with its state saved: run it again to go on")
        run.keep(output / "config.json")
        return run.run_id


def follow(reader: RowReader, run: TrackedRun, bar: Any) -> None:
    """Passes new rows of ``metrics.jsonl`` on to MLflow and to the progress bar."""
    rows = reader.read()
    if rows:
        run.follow(rows)
        if bar.n == 0:  # the time left is of steps, without the processes' start
            bar.reset()
            bar.initial = rows[-1]["step"]
        bar.update(rows[-1]["step"] - bar.n)
        bar.set_postfix(loss=f"{rows[-1]['loss']:.4f}")


@task(name="keep samples", cache_policy=NO_CACHE)
def keep_samples(config: TrainConfig, run_id: str) -> None:
    """Decodes the validation samples into sheets, beside the run and in MLflow."""
    paths = sorted((Path(config.output) / "samples").glob("step-*.safetensors"))
    if not paths:
        return
    from infra.tracking import client
    from llmdiff.diffusion.latents import LatentEncoder, decode_samples
    from pipelines.sheet import contact_sheet, save_png

    latent_encoder = LatentEncoder.from_pretrained(config.base)
    for path in paths:
        rows = [(prompt, [image]) for prompt, image in decode_samples(path, latent_encoder)]
        sheet = save_png(contact_sheet(rows, [path.stem]), path.with_suffix(".png"))
        client().log_artifact(run_id, str(sheet), "samples")


def train_result(config: TrainConfig, run_id: str, seconds: float) -> TrainResult:
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
    )


@task(name="show run", cache_policy=NO_CACHE)
def show(result: TrainResult) -> None:
    """Sums the run up in the Prefect UI."""
    text = f"{result.steps} steps, loss {result.loss:.4f}, {result.seconds:.0f} s; MLflow run `{result.run_id}`"
    create_markdown_artifact(text, key="train-run")
