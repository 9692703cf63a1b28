"""The request of the generate stage."""

from __future__ import annotations

from pydantic import Field

from infra.tracking.registry_names import CANDIDATE
from llmdiff.sampling import DType, Scheduler
from pipelines.requests.base import OptionalPathText, Request


class GenerateRequest(Request):
    """Draw prompts with and without an adapter, from the same seeds."""

    prompts: list[str]
    """What to draw."""
    adapter: str = CANDIDATE
    """Adapter folder, version in the registry, or name on the hub (`hf:owner/name[@revision]`)."""
    llm: str | None = None
    """Folder, GGUF file or name of the adapter's LLM; default: as registered."""
    diffusion: str | None = None
    """Folder, name or single file of the base model; default: the one that the adapter was trained on."""
    output: OptionalPathText = None
    """Folder for the pictures; default: one below the folder of runs."""
    seed: int = Field(default=0, ge=-(2**63), lt=2**63)
    """Seed of the first picture's noise; the next picture has the next one, whatever the batch."""
    steps: int = Field(default=30, ge=1)
    """Sampling steps."""
    guidance: float = 5.0
    """Classifier-free guidance scale."""
    negative: str = ""
    """What not to draw."""
    scale: float = 1.0
    """How much of the adapter: 1 as trained, 0 none."""
    count: int = Field(default=1, ge=1)
    """Pictures of each prompt."""
    scheduler: Scheduler | None = None
    """Sampler; default: the base model's own."""
    dtype: DType = "float32"
    """Floating-point type of base model and adapter."""
    batch: int = Field(default=4, ge=1)
    """Pictures drawn at once."""
    torch_compile: bool = False
    """Compile the U-Net with `torch.compile`: the first batch takes up to minutes on a GPU, the others less than
    without. Pictures differ by rounding."""
    channels_last: bool = False
    """Keep convolutions in the memory format channels_last. Pictures differ by rounding."""
