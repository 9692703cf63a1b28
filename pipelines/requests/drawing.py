"""How a stage is asked to draw."""

from __future__ import annotations

from pydantic import Field

from infra.tracking.registry_names import CANDIDATE
from llmdiff.sampling import DType, Sampling, Scheduler
from pipelines.requests.adapter import AdapterRequest
from pipelines.requests.base import OptionalPathText


class DrawingRequest(AdapterRequest):
    """A request to a stage that draws prompts with an adapter and without."""

    adapter: str = CANDIDATE
    """Adapter folder, version in the registry, or name on the hub (`hf:owner/name[@revision]`)."""
    output: OptionalPathText = None
    """Folder for the pictures; default: one below the folder of runs."""
    steps: int = Field(default=30, ge=1)
    """Sampling steps."""
    guidance: float = 5.0
    """Classifier-free guidance scale."""
    scheduler: Scheduler | None = None
    """Sampler; default: each model's own."""
    dtype: DType = "float32"
    """Floating-point type of the models that draw."""
    batch: int = Field(default=4, ge=1)
    """Pictures drawn at once."""
    torch_compile: bool = False
    """Compile the models that draw with `torch.compile`: the first batch takes up to minutes on a GPU, the others less
    than without. Pictures differ by rounding."""
    channels_last: bool = False
    """Keep convolutions in the memory format channels_last. Pictures differ by rounding."""

    @property
    def sampling(self) -> Sampling:
        """The settings that say how each picture is drawn."""
        return Sampling(**self.model_dump(include=set(Sampling.model_fields)))
