"""The request of the retrain stage: encode what is new, train, promote."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from infra.tracking.registry_names import MODEL
from llmdiff.data.sources.readiness import ReadinessPolicy
from llmdiff.encoder.config import Attention, DeviceMap, EncoderConfig
from llmdiff.training.config import TrainSettings
from pipelines.requests.base import EncoderKind, VaeDType
from pipelines.requests.data import DataRequest
from pipelines.requests.encode import EncodeRequest
from pipelines.requests.promote import PromoteRequest, PromotionPolicy
from pipelines.requests.register import RegisterRequest
from pipelines.requests.train import TrainRequest


class RetrainRequest(DataRequest):
    """Bring the registry up to date with data that grow."""

    store: str
    """Folder of the encoding store, or s3://bucket/prefix."""
    diffusion: str
    """Folder, name or single file of the Stable Diffusion model."""
    llm: str | None = None
    """Folder, GGUF file or name of the decoder-only LLM."""
    encoder: EncoderKind = "llm"
    """Whose encodings; base is the control."""
    name: str = MODEL
    """Registered model."""
    processes: int = Field(default=1, ge=1)
    """Processes of training on this machine, one a GPU."""
    encoder_settings: EncoderConfig = EncoderConfig()
    """Settings of the LLM's encoder; base has none."""
    vae_dtype: VaeDType = "float32"
    """Type of the autoencoder's pass, as the store's latents have it."""
    settings: TrainSettings = TrainSettings()
    """Settings of training: steps, batch size, learning rate, ..."""
    buckets: bool = False
    """Keep pictures whole but for their edges, as `encode --buckets` does."""
    bucket_step: int | None = Field(default=None, ge=1)
    """With buckets, pixels between the sides of two; default: 64, or an eighth of a smaller size than 512."""
    flip: bool = False
    """Keep each picture's mirror image, too, as `encode --flip` does."""
    ray: str | None = None
    """Encode on a Ray cluster: local, auto or host:6379."""
    device_map: DeviceMap | None = None
    """Spread the LLM over this machine's GPUs, as `encode --device-map` does."""
    attention: Attention | None = None
    """How the LLM computes attention, as `encode --attention` has it."""
    start: Literal["champion", "scratch"] = "champion"
    """Train on from the champion's weights, where there is a champion, or from scratch."""
    readiness: ReadinessPolicy = ReadinessPolicy()
    """How files that are still being written are recognised, and left for the next time."""
    policy: PromotionPolicy = Field(default_factory=PromotionPolicy)
    """Policy by which the candidate is compared with the champion."""
    wait: float = Field(default=0.0, ge=0)
    """Seconds to wait for another retrain on the store to end."""

    def to_encode(self) -> EncodeRequest:
        """Return the request that encodes what the store does not hold."""
        return EncodeRequest(
            data=self.data,
            caption_columns=self.caption_columns,
            image_column=self.image_column,
            every_caption=self.every_caption,
            caption_lines=self.caption_lines,
            allow_private_addresses=self.allow_private_addresses,
            store=self.store,
            diffusion=self.diffusion,
            llm=self.llm,
            encoder=self.encoder,
            settings=self.encoder_settings,
            vae_dtype=self.vae_dtype,
            buckets=self.buckets,
            bucket_step=self.bucket_step,
            flip=self.flip,
            ray=self.ray,
            device_map=self.device_map,
            attention=self.attention,
            readiness=self.readiness,
        )

    def to_train(self, fingerprint: str, store_version: int, initial: str | None) -> TrainRequest:
        """Return the request that trains on a snapshot's encodings, from an initial checkpoint or from scratch."""
        return TrainRequest(
            store=self.store,
            diffusion=self.diffusion,
            encoder=self.encoder,
            fingerprint=fingerprint,
            store_version=store_version,
            processes=self.processes,
            settings=self.settings.model_copy(update={"start_from": initial}),
            llm=self.llm,
        )

    def to_register(self, adapter: str, run_id: str) -> RegisterRequest:
        """Return the request that makes the trained adapter a version."""
        return RegisterRequest(adapter=adapter, run_id=run_id, name=self.name, llm=self.llm)

    def to_promote(self) -> PromoteRequest:
        """Return the request that has the candidate compared with the champion."""
        return PromoteRequest(name=self.name, policy=self.policy)
