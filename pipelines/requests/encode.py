"""What the encode stage is asked for."""

from __future__ import annotations

from pydantic import Field

from llmdiff.data.sources.readiness import ReadinessPolicy
from llmdiff.encoder.config import EncoderConfig
from pipelines.requests.base import EncoderKind
from pipelines.requests.data import DataRequest


class EncodeRequest(DataRequest):
    """Encode captions and pictures into a store."""

    store: str
    """Folder of the encoding store, or s3://bucket/prefix; made if it is missing."""
    diffusion: str | None = None
    """Folder or name of the Stable Diffusion model, whose autoencoder makes the latents; captions alone need none."""
    llm: str | None = None
    """Folder or name of the decoder-only LLM."""
    encoder: EncoderKind = "llm"
    """Whose encodings: the LLM's, or the diffusion model's own text features (base), which are the control."""
    size: int | None = Field(default=None, ge=1)
    """Side of the pictures in pixels; default: the diffusion model's own."""
    settings: EncoderConfig = EncoderConfig()
    """Settings of the LLM's encoder; base has none."""
    captions: list[str] | None = None
    """More captions to encode, without pictures: validation prompts."""
    min_side: int | None = Field(default=None, ge=1)
    """Least pixels of a picture's shorter side; default: a quarter of the size."""
    ray: str | None = None
    """Encode on a Ray cluster, a shard a GPU: local, auto or host:6379. Its machines see data, store and models under
    the same paths. Default: this process."""
    limit: str | None = None
    """Tag of a Prefect concurrency limit; a shard takes a slot of it while it is encoded."""
    readiness: ReadinessPolicy | None = None
    """How files that are still being written are told, to be left alone; data without a usable row are then no error.
    Default: every file is taken as whole."""
