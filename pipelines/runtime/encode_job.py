"""What an encode run's tasks must know, and the models that any process loads by it."""

from __future__ import annotations

import time
from functools import lru_cache
from typing import Any, Literal

from prefect.runtime import flow_run
from pydantic import BaseModel, ConfigDict

from llmdiff.data.encode import EncoderSet, TextEncoder, prepare
from llmdiff.diffusion.base import is_xl, unet_config
from llmdiff.diffusion.latents import LatentEncoder
from llmdiff.diffusion.xl import PooledTextEncoder, load_text_encoder
from llmdiff.encoder import Encoder, EncoderConfig
from llmdiff.folders import XL_PARTS, check_base
from pipelines.runtime.progress import quieten_loading
from storage import EncodingStore
from storage.io.paths import store_path
from storage.store import check_store_path


class EncodeJob(BaseModel):
    """What every task of an encode run must know; any process can load models and data from it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    store: str
    diffusion: str | None
    llm: str | None
    encoder: Literal["llm", "base"]
    size: int | None
    min_side: int | None
    settings: dict[str, Any]
    pictures: bool
    """Whether the data have pictures; the autoencoder is loaded for them alone."""
    run: str
    """Of the flow run: models stay loaded for as long as it lasts."""


def make_job(
    store: str,
    diffusion: str | None,
    llm: str | None,
    encoder: Literal["llm", "base"],
    size: int | None,
    settings: EncoderConfig,
    min_side: int | None = None,
    pictures: bool = True,
) -> EncodeJob:
    """The job, its settings checked before anything is loaded."""
    if pictures and diffusion is None:
        raise ValueError(
            "diffusion: expected the folder or name of a Stable Diffusion model, for the data have pictures"
        )
    if encoder == "base" and diffusion is None:
        raise ValueError('diffusion: expected the folder or name of the model that encoder "base" is of')
    if encoder == "llm" and llm is None:
        raise ValueError('llm: expected the folder or name of a decoder-only LLM; or encoder "base"')
    if encoder == "base" and (given := changed(settings)):
        raise ValueError(f'settings: encoder "base" has none, found {", ".join(given)}')
    run = str(flow_run.id or time.time_ns())
    return EncodeJob(
        store=store,
        diffusion=diffusion,
        llm=llm,
        encoder=encoder,
        size=size,
        min_side=min_side,
        settings=settings.to_dict() if encoder == "llm" else {},
        pictures=pictures,
        run=run,
    )


def changed(settings: EncoderConfig) -> list[str]:
    """The settings that are not the default."""
    defaults = EncoderConfig().to_dict()
    return [name for name, value in settings.to_dict().items() if value != defaults[name]]


@lru_cache(maxsize=1)
def loaded_encoders(job_json: str, gpu: int | None = None) -> EncoderSet:
    """The models of a job, loaded once a process and flow run; what can be refused at once is.

    Args:
        job_json: the job.
        gpu: torch's number of the one to use; None is the current one, where there is any.
    """
    if gpu is not None:
        use_gpu(gpu)
    job = EncodeJob.model_validate_json(job_json)
    check_store_path(store_path(job.store))
    xl = job.diffusion is not None and is_xl(unet_config(job.diffusion))
    base_parts = ("vae",) * job.pictures + ("text_encoder", "tokenizer") * (job.encoder == "base") + XL_PARTS * xl
    if job.diffusion is not None and base_parts:
        check_base(job.diffusion, *base_parts)
    quieten_loading()
    encoder = load_encoder(job)
    pooled = PooledTextEncoder.from_pretrained(job.diffusion, device()) if xl and job.diffusion else None
    if not job.pictures:
        return prepare(EncodingStore.open_or_create(job.store), encoder, pooled=pooled)
    assert job.diffusion is not None  # `make_job` looked
    latent_encoder = LatentEncoder.from_pretrained(job.diffusion, device())
    size = job.size or picture_size(job.diffusion, latent_encoder)
    return prepare(EncodingStore.open_or_create(job.store), encoder, latent_encoder, size, job.min_side, pooled)


def load_encoder(job: EncodeJob) -> TextEncoder:
    """The encoder of captions."""
    if job.encoder == "llm":
        assert job.llm is not None
        return Encoder.from_pretrained(job.llm, EncoderConfig.from_dict(job.settings))
    assert job.diffusion is not None
    return load_text_encoder(job.diffusion, device())


def picture_size(diffusion: str, latent_encoder: LatentEncoder) -> int:
    """The side in pixels that a diffusion model was made for."""
    return int(unet_config(diffusion)["sample_size"]) * latent_encoder.factor


def use_gpu(gpu: int) -> None:
    """Makes a GPU the one that "cuda" means."""
    import torch

    torch.cuda.set_device(gpu)


def device() -> str:
    """Where the models run."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
