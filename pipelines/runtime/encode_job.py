"""What an encode run's tasks must know, and the models that any process loads by it."""

from __future__ import annotations

import time
from functools import lru_cache

from prefect.runtime import flow_run
from pydantic import BaseModel, ConfigDict

from llmdiff.data.encode import EncoderSet, TextEncoder, prepare
from llmdiff.diffusion.base import is_xl, latent_size, unet_config
from llmdiff.diffusion.latents import LatentEncoder
from llmdiff.diffusion.xl import PooledTextEncoder, load_text_encoder
from llmdiff.encoder import Encoder, EncoderConfig
from llmdiff.model_folders import XL_PARTS, check_base
from pipelines.requests.encode import EncodeRequest
from pipelines.runtime.progress import quieten_loading
from storage import EncodingStore
from storage.io.paths import store_path
from storage.store import check_store_path


class EncodeJob(BaseModel):
    """What every task of an encode run must know; any process can load models and data from it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    request: EncodeRequest
    """Without the captions that have no pictures, which one task alone encodes."""
    pictures: bool
    """Whether the data have pictures; the autoencoder is loaded for them alone."""
    run: str
    """Id of the flow run: models stay loaded for as long as it lasts."""


def make_job(request: EncodeRequest, pictures: bool) -> EncodeJob:
    """Return the job of a request; raise ValueError for what it lacks, before anything is loaded."""
    if pictures and request.diffusion is None:
        raise ValueError(
            "diffusion: expected the folder or name of a Stable Diffusion model, for the data have pictures"
        )
    if request.encoder == "base" and request.diffusion is None:
        raise ValueError('diffusion: expected the folder or name of the model that encoder "base" is of')
    if request.encoder == "llm" and request.llm is None:
        raise ValueError('llm: expected the folder or name of a decoder-only LLM; or encoder "base"')
    if request.encoder == "base" and (given := changed(request.settings)):
        raise ValueError(f'settings: encoder "base" has none, found {", ".join(given)}')
    run = str(flow_run.id or time.time_ns())
    return EncodeJob(request=request.model_copy(update={"captions": None}), pictures=pictures, run=run)


def only_for_pictures(request: EncodeRequest) -> bool:
    """Return whether a request names a diffusion model for its autoencoder alone: its texts are not read either."""
    return request.encoder == "llm" and request.diffusion is not None and not is_xl(unet_config(request.diffusion))


def changed(settings: EncoderConfig) -> list[str]:
    """Return the names of the settings that are not the default."""
    defaults = EncoderConfig().to_dict()
    return [name for name, value in settings.to_dict().items() if value != defaults[name]]


@lru_cache(maxsize=1)
def loaded_encoders(job_json: str, gpu: int | None = None) -> EncoderSet:
    """Load the models of a job, once a process and flow run; refuse at once what can be refused.

    Args:
        job_json: the job.
        gpu: torch's number of the one to use; None is the current one, where there is any.
    """
    if gpu is not None:
        use_gpu(gpu)
    job = EncodeJob.model_validate_json(job_json)
    request = job.request
    check_store_path(store_path(request.store))
    xl = request.diffusion is not None and is_xl(unet_config(request.diffusion))
    base_parts = ("vae",) * job.pictures + ("text_encoder", "tokenizer") * (request.encoder == "base") + XL_PARTS * xl
    if request.diffusion is not None and base_parts:
        check_base(request.diffusion, *base_parts)
    quieten_loading()
    encoder = load_encoder(request)
    pooled = PooledTextEncoder.from_pretrained(request.diffusion, device()) if xl and request.diffusion else None
    if not job.pictures:
        return prepare(EncodingStore.open_or_create(request.store), encoder, pooled=pooled)
    assert request.diffusion is not None  # `make_job` looked
    latent_encoder = LatentEncoder.from_pretrained(request.diffusion, device())
    size = request.size or picture_size(request.diffusion, latent_encoder)
    return prepare(
        EncodingStore.open_or_create(request.store),
        encoder,
        latent_encoder,
        size,
        request.min_side,
        pooled,
        buckets=request.buckets,
        bucket_step=request.bucket_step,
        flip=request.flip,
    )


def load_encoder(request: EncodeRequest) -> TextEncoder:
    """Load the encoder of captions."""
    if request.encoder == "llm":
        assert request.llm is not None
        return Encoder.from_pretrained(request.llm, request.settings)
    assert request.diffusion is not None
    return load_text_encoder(request.diffusion, device())


def picture_size(diffusion: str, latent_encoder: LatentEncoder) -> int:
    """Return the side in pixels that a diffusion model was made for."""
    return latent_size(diffusion) * latent_encoder.factor


def use_gpu(gpu: int) -> None:
    """Make a GPU the one that "cuda" means."""
    import torch

    torch.cuda.set_device(gpu)


def device() -> str:
    """Return where the models run."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
