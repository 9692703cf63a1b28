"""The request of the encode stage, and what it shares with other stages that encode."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from llmdiff.data.sources.readiness import ReadinessPolicy
from llmdiff.encoder.config import Attention, DeviceMap, EncoderConfig
from pipelines.requests.base import EncoderKind, VaeDType
from pipelines.requests.data import DataRequest


class EncodeChoices(DataRequest):
    """A request to a stage that encodes: which models, and how pictures are made ready."""

    store: str
    """Folder of the encoding store, or s3://bucket/prefix; made if it is missing."""
    diffusion: str | None = None
    """Folder, name or single file of a Stable Diffusion, whose autoencoder makes latents; captions alone need none."""
    llm: str | None = None
    """Folder, GGUF file or name of the decoder-only LLM."""
    encoder: EncoderKind = "llm"
    """Whose encodings: the LLM's, or the diffusion model's own text features (base), which are the control."""
    vae_dtype: VaeDType = "float32"
    """Type of the autoencoder's pass. bfloat16 takes half the memory, and its latents are further off than storing them
    in float16 makes them; they have a key of their own, and a store holds one kind."""
    buckets: bool = False
    """Keep pictures whole but for their edges: each goes into the nearest of the aspect ratios of about size² pixels.
    Default: the centred square."""
    bucket_step: int | None = Field(default=None, ge=1)
    """With buckets, pixels between the sides of two; default: 64, or an eighth of a smaller size than 512."""
    flip: bool = False
    """Keep each picture's mirror image, too; training draws one of the two each epoch."""
    ray: str | None = None
    """Encode on a Ray cluster, a shard a GPU: local, auto or host:6379. Its machines see data, store and models under
    the same paths. Default: this process."""
    device_map: DeviceMap | None = None
    """Spread the LLM over this machine's GPUs, then its memory, as transformers does. Default: all of it on one."""
    attention: Attention | None = None
    """How the LLM computes attention; flash_attention_2 needs a CUDA device and flash-attn. Default: transformers'
    own choice."""
    readiness: ReadinessPolicy | None = None
    """How files that are still being written are recognised, and left alone; data without a usable row are then no
    error. Default: every file is taken as whole."""

    @model_validator(mode="after")
    def check_step(self) -> Self:
        if self.bucket_step is not None and not self.buckets:
            raise ValueError(f"bucket_step: expected none without buckets, found {self.bucket_step}")
        return self

    @model_validator(mode="after")
    def check_device_map(self) -> Self:
        if self.device_map is not None and self.ray is not None:
            raise ValueError(f"device_map: expected none with ray, a GPU a process, found {self.device_map}")
        return self


class EncodeRequest(EncodeChoices):
    """Encode captions and pictures into a store."""

    size: int | None = Field(default=None, ge=1)
    """Side of the pictures in pixels; default: the diffusion model's own."""
    settings: EncoderConfig = EncoderConfig()
    """Settings of the LLM's encoder; base has none."""
    captions: list[str] | None = None
    """More captions to encode, without pictures: validation prompts."""
    min_side: int | None = Field(default=None, ge=1)
    """Least pixels of a picture's shorter side; default: a quarter of the size."""
    vae_batch: int = Field(default=16, ge=1)
    """Pictures that the autoencoder takes at once, at most; halved when memory runs out."""
    processes: int = Field(default=1, ge=1)
    """Processes on this machine, one a GPU, a shard each at a time. Default: this one."""
    limit: str | None = None
    """Tag of a Prefect concurrency limit, not a number of rows; a shard takes a slot of it while it is encoded."""
    torch_compile: bool = False
    """Compile the LLM's blocks and the autoencoder with `torch.compile`: the first batches take up to minutes on a GPU,
    the others less than without. Encodings and latents differ by rounding, and keep their keys."""
    channels_last: bool = False
    """Keep the autoencoder's convolutions in the memory format channels_last. Latents differ by rounding."""

    @model_validator(mode="after")
    def check_processes(self) -> Self:
        if self.device_map is not None and self.processes > 1:
            raise ValueError(f"device_map: expected none with several processes, a GPU each, found {self.device_map}")
        return self

    def check_named(self, pictures: bool) -> None:
        """Raise ValueError for a model that is not named, with or without pictures in the data; or settings of base."""
        if pictures and self.diffusion is None:
            raise ValueError(
                "diffusion: expected the folder or name of a Stable Diffusion model, for the data have pictures"
            )
        if self.encoder == "base" and self.diffusion is None:
            raise ValueError('diffusion: expected the folder or name of the model that encoder "base" is of')
        if self.encoder == "llm" and self.llm is None:
            raise ValueError('llm: expected the folder or name of a decoder-only LLM; or encoder "base"')
        if self.encoder == "base" and (given := changed(self.settings)):
            raise ValueError(f'settings: encoder "base" has none, found {", ".join(given)}')


def changed(settings: EncoderConfig) -> list[str]:
    """Return the names of the settings that are not the default."""
    defaults = EncoderConfig().to_dict()
    return [name for name, value in settings.to_dict().items() if value != defaults[name]]
