"""A training run before its first step: the folder that it has, and the configuration that all its processes read."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from infra.environment import home
from infra.launch.hostfile import Topology
from infra.launch.run import RUN_ID, is_finished
from infra.tracking.hub_cache import hub_revision
from llmdiff.compilation import check_compiler
from llmdiff.extras import require_for
from llmdiff.model_files.base_folders import check_base
from llmdiff.training.config import CONFIG, FREE, LAYOUT_LOG, UNNAMED, TrainConfig, TrainSettings
from llmdiff.training.lock import locked
from llmdiff.training.resolve import began_with, resolve
from pipelines.requests.base import FILE
from pipelines.requests.train import TrainRequest
from pipelines.runtime.init_checkpoint import check_start, resolve_initial
from pipelines.runtime.plain_base import is_plain
from storage import EncodingStore

STEPS = 1000
"""Number of steps of a run whose settings name neither steps nor epochs."""


def resolve_run(request: TrainRequest, topology: Topology) -> TrainConfig:
    """Return the configuration of a requested run, with folder, snapshot, encodings, batch and processes pinned.

    Nothing is written but what ``restart`` asks to be removed.
    """
    check_base(request.diffusion, "unet", "scheduler")
    check_tools(request.settings)
    xl = reads_pooled(request.diffusion)
    draft = draft_of(request, topology)
    folder = Path(request.output) if request.output is not None else run_folder(draft, request.encoder)
    if request.restart:
        clear(folder)
    draft = draft.model_copy(update={"output": str(folder)})
    config = resolve(draft, request.encoder, xl=xl)
    check_start(config)
    return config


def reads_pooled(base: str) -> bool:
    """Return whether a base is an SDXL, which reads pooled embeddings; ValueError for one that can't be trained on.

    None is refused once the processes run.
    """
    if is_plain(base):
        return False
    from llmdiff.diffusion.base import load_noise_schedule, unet_config
    from llmdiff.model_files.base_kinds import is_xl

    load_noise_schedule(base)
    return is_xl(unet_config(base))


def check_tools(settings: TrainSettings) -> None:
    """Raise ValueError or ModuleNotFoundError where this machine lacks a compiler or package that settings ask for."""
    if settings.optimizer == "adamw_8bit":
        require_for("torchao", "optimizer 'adamw_8bit'")
    if settings.torch_compile or settings.optimizer == "adamw_8bit":
        check_compiler()


def draft_of(request: TrainRequest, topology: Topology) -> TrainConfig:
    """Return a configuration whose fingerprints and folder may be missing yet."""
    settings = request.settings
    values: dict[str, Any] = {
        **settings.model_dump(),
        "store": request.store,
        "store_version": request.store_version,
        "fingerprint": request.fingerprint or "",
        "base": request.diffusion,
        "llm": request.llm or "",
        "llm_revision": request.llm_revision or hub_revision(request.llm),
        "output": "",
        "processes": topology.processes,
        "hosts": [host.name for host in topology.hosts],
        **resolve_initial(settings.start_from),
    }
    if settings.steps is None and settings.epochs is None:
        values["steps"] = STEPS
    if settings.adapter.base_context == "clip":
        values["base_fingerprint"] = settings.base_fingerprint or ""
    return TrainConfig(**values)


def run_folder(draft: TrainConfig, encoder: str) -> Path:
    """Return the folder of a run that names none: that of its settings on its store, wherever the store lies now.

    Raises:
        FileNotFoundError, ValueError: there is no such store.
    """
    store, runs = EncodingStore.open(draft.store), home() / "train"
    by_path = runs / run_name(draft, encoder, draft.store)  # the folder of runs from before stores had an id
    before = began_with(by_path)
    if before is not None and before.store_id in ("", store.id):
        return by_path
    name = run_name(draft, encoder, store.id)
    alike = sorted(runs.glob(f"*-{name.rpartition('-')[2]}"))
    return alike[0] if alike else runs / name


def run_name(draft: TrainConfig, encoder: str, store: str) -> str:
    """Return a folder's name for a run: with the same end for all that may go on with it on a store."""
    defaults = TrainSettings().model_dump(mode="json")
    settings = draft.model_dump(mode="json", exclude={*FREE, "store_id"})
    settings = {key: value for key, value in settings.items() if key not in UNNAMED or value != defaults[key]}
    settings |= {"encoder": encoder, "samples": draft.global_batch, "store": store}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    return f"{draft.store.rstrip('/').rpartition('/')[2]}-{encoder}-{digest[:8]}"


def clear(folder: Path) -> None:
    """Remove what a run left, and nothing else."""
    if not folder.exists():
        return
    with locked(folder):
        for name in ("checkpoints", "samples", "adapter", "adapter-raw"):
            shutil.rmtree(folder / name, ignore_errors=True)
        for name in (CONFIG, FILE, "metrics.jsonl", LAYOUT_LOG, "weights.png", RUN_ID):
            (folder / name).unlink(missing_ok=True)
        for log in folder.glob("train*.log"):
            log.unlink()


def finished_run(folder: Path) -> str | None:
    """Return the MLflow run of a run that has its result; None where there is something left to do."""
    return (folder / RUN_ID).read_text().strip() if is_finished(folder) else None
