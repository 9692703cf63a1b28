"""The job of an encode run, which its tasks get, and the models that any process loads by it."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from pydantic import BaseModel, ConfigDict

from llmdiff.data.encode import EncoderSet, TextEncoder, prepare
from llmdiff.data.encode.reading import cores
from llmdiff.devices import device
from llmdiff.diffusion.base import is_xl, latent_size, unet_config
from llmdiff.diffusion.latents import LatentEncoder, check_autoencoder
from llmdiff.diffusion.xl import PooledTextEncoder, load_text_encoder
from llmdiff.encoder import Encoder
from llmdiff.model_files.base_folders import XL_PARTS, check_base
from pipelines.requests.encode import EncodeRequest
from pipelines.runtime.encode import known_encoders
from pipelines.runtime.encode.checks import check_models
from pipelines.runtime.progress import quieten_loading
from pipelines.runtime.recording import run_id
from storage import EncodingStore
from storage.io.paths import store_path
from storage.store import check_store_path


class EncodeJob(BaseModel):
    """The job of an encode run: all that its tasks must know, in any process."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    request: EncodeRequest
    """The request without the captions that have no pictures, which one task alone encodes."""
    pictures: bool
    """Whether the data have pictures; the autoencoder is loaded for them alone."""
    run: str
    """Id of the flow run: models stay loaded for as long as it lasts."""


def make_job(request: EncodeRequest, pictures: bool) -> EncodeJob:
    """Return the job of a request; raise ValueError for what it lacks, before anything is loaded."""
    check_models(request, pictures)
    return EncodeJob(request=request.model_copy(update={"captions": None}), pictures=pictures, run=run_id())


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
    state = known_encoders.state_of(job.request)
    encoders = load_encoders(job)
    known = known_encoders.KnownEncoders(
        state=state,
        fingerprint=encoders.fingerprint,
        pooled=None if encoders.pooled is None else encoders.pooled.fingerprint,
        latents=None if encoders.latents is None else encoders.latents.fingerprint,
    )
    known_encoders.keep(job.request, job.pictures, known)
    return encoders


def load_encoders(job: EncodeJob) -> EncoderSet:
    """Load the models of a job and register them in the store."""
    request = job.request
    threads = share_cores(request.processes)
    check_store_path(store_path(request.store))
    xl = request.diffusion is not None and is_xl(unet_config(request.diffusion))
    base_parts = ("vae",) * job.pictures + ("text_encoder", "tokenizer") * (request.encoder == "base") + XL_PARTS * xl
    if request.diffusion is not None and base_parts:
        check_base(request.diffusion, *base_parts)
    if request.diffusion is not None and job.pictures:
        check_autoencoder(request.diffusion)
    quieten_loading()
    encoder = load_encoder(request)
    pooled = PooledTextEncoder.from_pretrained(request.diffusion, device()) if xl and request.diffusion else None
    if not job.pictures:
        return prepare(EncodingStore.open_or_create(request.store), encoder, pooled=pooled)
    assert request.diffusion is not None  # `make_job` looked
    latent_encoder = load_latent_encoder(request, request.diffusion)
    size = request.size or picture_size(request.diffusion, latent_encoder)
    prepared = prepare(
        EncodingStore.open_or_create(request.store),
        encoder,
        latent_encoder=latent_encoder,
        size=size,
        min_side=request.min_side,
        pooled=pooled,
        buckets=request.buckets,
        bucket_step=request.bucket_step,
        flip=request.flip,
    )
    return replace(prepared, threads=threads)


def load_encoder(request: EncodeRequest) -> TextEncoder:
    """Load the encoder of captions."""
    if request.encoder == "llm":
        assert request.llm is not None
        return Encoder.from_pretrained(
            request.llm,
            request.settings,
            device_map=request.device_map,
            attention=request.attention,
            torch_compile=request.torch_compile,
        )
    assert request.diffusion is not None
    return load_text_encoder(request.diffusion, device())


def load_latent_encoder(request: EncodeRequest, diffusion: str) -> LatentEncoder:
    """Load the encoder of pictures."""
    import torch

    dtype = getattr(torch, request.vae_dtype)
    how = {"torch_compile": request.torch_compile, "channels_last": request.channels_last}
    return LatentEncoder.from_pretrained(diffusion, device(), dtype, request.vae_batch, **how)


def share_cores(processes: int) -> int:
    """Return how many threads decode pictures in each of a run's processes; a model on a CPU takes its share too."""
    import torch

    if processes > 1:
        torch.set_num_threads(max(1, torch.get_num_threads() // processes))
    return max(1, cores() // processes)


def picture_size(diffusion: str, latent_encoder: LatentEncoder) -> int:
    """Return the side in pixels that a diffusion model was made for."""
    return latent_size(diffusion) * latent_encoder.factor


def use_gpu(gpu: int) -> None:
    """Make a GPU the one that "cuda" means."""
    import torch

    torch.cuda.set_device(gpu)
