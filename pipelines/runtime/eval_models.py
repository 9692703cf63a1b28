"""The models that an evaluation compares: an adapter, its base model, other pipelines and adapters."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from infra.tracking.hub_cache import hub_revision
from infra.tracking.registry import find_version
from infra.tracking.registry_names import SCHEME
from llmdiff.adapter.config import CONFIG
from llmdiff.data.sources.rows import hash_file
from llmdiff.evaluation import Model
from llmdiff.model_files.checkpoint_file import folder_beside
from llmdiff.model_files.manifest import MANIFEST
from llmdiff.model_files.model_folders import first_line
from llmdiff.model_files.named_files import SUFFIX, check_pipeline_files
from llmdiff.sampling import Sampling, load_pipeline, prepare
from pipelines.runtime.adapter_source import Source, load_source, resolve_adapter
from pipelines.runtime.progress import quieten_loading

BASE = "base"
INDEX = "model_index.json"
READ = (".json", ".model", ".safetensors", ".txt")
"""Endings of the files of a model's folder that its pixels depend on."""


class EvalModel(BaseModel):
    """A model in an evaluation, by name."""

    model_config = ConfigDict(frozen=True)

    name: str
    kind: Literal["adapter", "base", "pipeline"]
    spec: str
    """The model as the user named it."""
    source: Source | None = None
    """The adapter and its base model; None for any other pipeline."""


def find_eval_models(adapter: str, baselines: list[str], llm: str | None, diffusion: str | None) -> list[EvalModel]:
    """Return the adapter, then each baseline, found and named.

    Args:
        adapter: a folder, or a version in the registry.
        baselines: "base" for the adapter's base model alone; a folder or hub name of any diffusers pipeline; a folder
            or version of another adapter. ``name=`` before it names it.
        llm: of adapters; None takes what was recorded with each.
        diffusion: base model of adapters; None takes the one that each was trained on.

    Raises:
        ValueError: two baselines have one name, or an adapter's LLM is not known.
    """
    source = resolve_adapter(adapter, llm, diffusion)
    found = [EvalModel(name="adapter", kind="adapter", spec=adapter, source=source)]
    for baseline in baselines:
        name, spec = _split(baseline)
        if spec == BASE:
            found.append(EvalModel(name=name or BASE, kind="base", spec=source.diffusion, source=source))
        elif spec.startswith(SCHEME) or (Path(spec) / CONFIG).is_file():
            other = resolve_adapter(spec, llm, diffusion)
            found.append(EvalModel(name=name or _short(spec), kind="adapter", spec=spec, source=other))
        else:
            found.append(EvalModel(name=name or _short(spec), kind="pipeline", spec=spec))
    names = [each.name for each in found]
    if len(set(names)) < len(names):
        raise ValueError(f"baselines: expected different names, found {', '.join(names)}; name one with NAME=MODEL")
    return found


def model_of(eval_model: EvalModel) -> Model:
    """Return the model that draws, and what its pixels depend on; ValueError for a hub model that can't be had."""
    if eval_model.source is None:
        spec = eval_model.spec
        return Model(eval_model.name, {"pipeline": identity(spec)}, lambda sampling: _load(spec, sampling))
    source, adapted = eval_model.source, eval_model.kind == "adapter"
    depends: dict[str, Any] = {"base": identity(source.diffusion)}
    if adapted:  # its configuration has the LLM's content, which loading checks
        depends["adapter"] = identity(source.adapter)
    return Model(eval_model.name, depends, lambda sampling: load_source(source, adapted, sampling))


def run_of(adapter: str) -> str | None:
    """Return the MLflow run of an adapter in the registry; None for a folder."""
    return find_version(adapter).run_id if adapter.startswith(SCHEME) else None


@lru_cache
def identity(model: str) -> str:
    """Return a hash of a folder's files, or of a single file's and its configurations'; or a hub name and commit."""
    folder = Path(model)
    if folder.is_dir():
        return _listed(folder, folder.rglob("*"))
    if folder.is_file():
        beside = [file for file in folder_beside(folder).rglob("*") if file.suffix != SUFFIX]
        return _listed(folder.parent, [folder, *beside])
    return f"{model}@{hub_revision(model, INDEX) or _newest_revision(model)}"


def _listed(folder: Path, files: Iterable[Path]) -> str:
    """Return a hash of those files that pixels depend on."""
    read = sorted(file for file in files if file.suffix in READ and file.is_file())
    read = [file for file in read if file.name != MANIFEST]  # which earlier adapters have not
    listed = "\n".join(f"{file.relative_to(folder)} {hash_file(file)}" for file in read)
    return hashlib.sha256(listed.encode()).hexdigest()


def _newest_revision(model: str) -> str:
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(model, INDEX)).parent.name
    except (OSError, ValueError) as error:  # huggingface_hub's own are of these
        raise ValueError(
            f"{model}: no folder of that name here; from the hub: cannot read its {INDEX}: {first_line(error)}"
        ) from error


def _load(spec: str, sampling: Sampling) -> Any:
    """Load any text-to-image pipeline of diffusers: safetensors alone, and no checker that blackens pictures."""
    import diffusers
    import torch

    from llmdiff.diffusion.base import LOADING

    quieten_loading()
    if Path(spec).is_file():
        return load_pipeline(spec, **sampling.loading())
    dtype = getattr(torch, sampling.dtype)
    try:
        check_pipeline_files(spec)
        pipe = diffusers.AutoPipelineForText2Image.from_pretrained(spec, dtype=dtype, **LOADING)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"baseline {spec}: cannot be loaded: {first_line(error)}") from error
    if getattr(pipe, "safety_checker", None) is not None:
        pipe.safety_checker = None
    return prepare(pipe, sampling.scheduler, torch_compile=sampling.torch_compile, channels_last=sampling.channels_last)


def _split(baseline: str) -> tuple[str, str]:
    """Return name and model of ``name=model``; the name is empty where there is none."""
    name, named, spec = baseline.partition("=")
    if not named:
        return "", baseline
    if not re.fullmatch(r"[\w.-]+", name):
        raise ValueError(f"baseline {baseline}: expected a name of letters, digits, dots and dashes, found {name!r}")
    return name, spec


def _short(spec: str) -> str:
    """Return the last part of a folder, hub name or registry address, as a name."""
    return re.sub(r"[^\w.-]", "-", spec.rstrip("/").rpartition("/")[2])
