"""The request of the retrain stage: encode what is new, train, promote."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from infra.tracking.registry_names import MODEL
from llmdiff.data.sources.readiness import ReadinessPolicy
from llmdiff.encoder.config import EncoderConfig
from llmdiff.training.config import TrainSettings
from pipelines.requests.encode import EncodeChoices, EncodeRequest
from pipelines.requests.promote import PromoteRequest, PromotionPolicy
from pipelines.requests.register import RegisterRequest
from pipelines.requests.train import TrainRequest


class RetrainRequest(EncodeChoices):
    """Bring the registry up to date with data that grow."""

    diffusion: str
    """Folder, name or single file of the Stable Diffusion model."""
    readiness: ReadinessPolicy = ReadinessPolicy()
    """How files that are still being written are recognised, and left for the next time."""
    name: str = MODEL
    """Registered model."""
    processes: int = Field(default=1, ge=1)
    """Processes of training on this machine, one a GPU."""
    encoder_settings: EncoderConfig = EncoderConfig()
    """Settings of the LLM's encoder; base has none."""
    settings: TrainSettings = TrainSettings()
    """Settings of training: steps, batch size, learning rate, ..."""
    start: Literal["champion", "scratch"] = "champion"
    """Train on from the champion's weights, where there is a champion, or from scratch."""
    policy: PromotionPolicy = Field(default_factory=PromotionPolicy)
    """Policy by which the candidate is compared with the champion."""
    wait: float = Field(default=0.0, ge=0)
    """Seconds to wait for another retrain on the store to end."""

    def to_encode(self) -> EncodeRequest:
        """Return the request that encodes what the store does not hold."""
        choices = {name: getattr(self, name) for name in EncodeChoices.model_fields}
        return EncodeRequest(**choices, settings=self.encoder_settings)

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
