"""What the models of an earlier encode run were, so that one with nothing new to encode need not load them.

A file below the folder of runs for each choice of models and settings. It saves time alone: without it, or where
anything differs that an encoder's numbers depend on, the models are loaded and say what they are.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

import llmdiff
from infra.environment import home
from infra.tracking.hub_cache import hub_revision
from llmdiff.data.encode.known import check_same_latents, lacking_captions, new_captions
from pipelines.requests.encode import EncodeRequest
from storage import EncodingStore, caption_hash
from storage.index.snapshot import Snapshot
from storage.io.files import write_file

CHOICE = {"llm", "diffusion", "encoder", "size", "settings", "min_side", "vae_dtype", "buckets", "bucket_step", "flip"}
"""Fields of the encode request that decide what its encoders are."""
PACKAGES = ("diffusers", "numpy", "tokenizers", "torch", "transformers", "bitsandbytes", "torchao")
"""Packages that read models, or describe them."""


class KnownEncoders(BaseModel):
    """Fingerprints that a run's models registered, and of what state of their files and of the code."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    state: str
    fingerprint: str
    """Fingerprint of the captions' encoder."""
    pooled: str | None = None
    """Fingerprint of the pooled encoder that SDXL bases have besides."""
    latents: str | None = None
    """Fingerprint of the pictures' encoder."""


def recall(request: EncodeRequest, pictures: bool) -> KnownEncoders | None:
    """Return what was kept of these models and settings; None where nothing was, or they may have changed since.

    None, too, for a base beside captions alone: whether they have a use for it is not known without reading it.
    """
    if not pictures and request.encoder == "llm" and request.diffusion is not None:
        return None
    with suppress(FileNotFoundError, ValidationError):
        found = KnownEncoders.model_validate_json(_path(request, pictures).read_bytes())
        return found if found.state == state_of(request) else None
    return None


def keep(request: EncodeRequest, pictures: bool, known: KnownEncoders) -> None:
    """Keep what a run's models were, unless their files changed while they were read."""
    if known.state and known.state == state_of(request):
        path = _path(request, pictures)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, known.model_dump_json().encode())


def has_all(store: EncodingStore, snapshot: Snapshot, known: KnownEncoders, captions: list[str]) -> bool:
    """Return whether encoders are registered in a store with all that is not of its data's rows.

    Raises:
        ValueError: the store holds latents of another kind.
    """
    descriptions = store.fingerprints()
    kinds = [known.fingerprint, *filter(None, (known.pooled, known.latents))]
    if not all(kind in descriptions for kind in kinds):
        return False
    if known.latents is not None:
        check_same_latents(store, descriptions[known.latents])
    if known.pooled is not None and lacking_captions(snapshot, known.fingerprint, known.pooled):
        return False
    of_captions = kinds if known.latents is None else kinds[:-1]
    empty = caption_hash("")
    return all(snapshot.encodings(each, [empty]) and not new_captions(snapshot, each, captions) for each in of_captions)


def state_of(request: EncodeRequest) -> str:
    """Return a text that changes with a model's files, our code or a package; empty where nobody can say.

    A name on the hub counts as the commit that this machine's cache has of it.
    """
    models = {
        "llm": _model_state(request.llm, "config.json"),
        "diffusion": _model_state(request.diffusion, "unet/config.json"),
    }
    if not all(models.values()):
        return ""
    return hashlib.sha256(json.dumps([models, _code(), _versions()]).encode()).hexdigest()


def _path(request: EncodeRequest, pictures: bool) -> Path:
    facts = request.model_dump(mode="json", include=CHOICE)
    for part in ("llm", "diffusion"):
        facts[part] = _absolute(facts[part])
    digest = hashlib.sha256(json.dumps([facts, pictures], sort_keys=True).encode()).hexdigest()
    return home() / "encoders" / f"{digest[:16]}.json"


def _absolute(model: str | None) -> str | None:
    return str(Path(model).absolute()) if model is not None and Path(model).exists() else model


def _model_state(model: str | None, file: str) -> str:
    """Return the state of a model: of its files, or of its commit, which one of its files leads to."""
    if model is None:
        return "none"
    if not Path(model).exists():
        return hub_revision(model, file)
    digest = hashlib.sha256()
    for path in _files(Path(model)):
        try:
            found = path.stat()
        except OSError:
            return ""
        # the time of change differs once a file was written to, or put in another's place
        facts = (found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)
        digest.update(f"{path.absolute()}\0{facts}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _files(model: Path) -> Iterator[Path]:
    """Yield the files of a model's folder, or the one that it is, in a fixed order."""
    if model.is_file():
        yield model
    for folder, folders, names in os.walk(model, followlinks=True):
        folders.sort()
        yield from (Path(folder, name) for name in sorted(names))


@cache
def _code() -> str:
    """Return the hash of the method's own code, whose version stays the same while it is worked on."""
    digest = hashlib.sha256()
    for path in sorted(Path(llmdiff.__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


@cache
def _versions() -> list[str]:
    found = []
    for name in PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            found.append(f"{name}-{importlib.metadata.version(name)}")
    return found
