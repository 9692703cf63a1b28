"""Settings and lineage of an adapter; `AdapterConfig` is the ``adapter_config.json`` beside its weights."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

WEIGHTS, CONFIG = "adapter.safetensors", "adapter_config.json"
STATISTICS = ("phi.standardisation.mean", "phi.standardisation.std")
"""Names of the tensors among the weights that are measured and not trained."""
WIDEST = 2**24
"""Width above which a configuration is refused: no model is so wide, and torch can't size a tensor that is."""
LATER = ("band_gates", "refiner", "standardise")
"""Settings that are not written where they are neutral, so that files of versions without them compare equal."""


class AdapterSettings(BaseModel):
    """The choices of the method, made before training."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    base_context: Literal["llm", "clip"] = "llm"
    """What the original cross-attention reads: the projected encoding (Eq. 9), or the base's own text features."""
    paths: Literal["both", "original", "new"] = "both"
    """Ablations of Eq. 9: both terms, or one with the other's module left out altogether."""
    original_weight: float = 1.0
    """Initial value of ``a1``, the weight of the original path."""
    new_weight: float = 0.1
    """Initial value of ``a2``, the weight of the new path. With `base_context` "clip", 0 is the loaded U-Net itself."""
    learn_weights: bool = True
    """Whether ``a1, a2, b1, b2`` of every layer are trained."""
    copy_original: bool = True
    """Whether the new attention starts as a copy of the original one, or at random."""
    learn_bands: bool = True
    """Whether ``g``, one weight for each depth band, is trained where an encoding has several bands."""
    band_gates: bool = False
    """In place of ``g``, each layer of the U-Net mixes the layer-normalised bands of an encoding by a softmax over
    logits of its own. It starts as their mean, and needs encodings of several bands."""
    refiner: Literal[0, 1, 2] = 0
    """Transformer blocks over the tokens after `phi`, in which a token sees those after it too, as in a causal LLM it
    can't. They start at random, and so change what the adapter reads from the first step on."""
    standardise: bool = False
    """Whether `phi` reads encodings standardised channel by channel, by mean and standard deviation of the store's
    encodings, measured as training begins. Then no channel rules by its size alone."""

    @model_serializer(mode="wrap")
    def leave_out_neutral(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Return the settings that are written: those of `LATER` only where they do something."""
        fields, written = AdapterSettings.model_fields, write(self)
        return {key: value for key, value in written.items() if key not in LATER or value != fields[key].default}


class AdapterConfig(AdapterSettings):
    """The settings, the widths they meet, and the lineage of the weights."""

    encoding_dim: int = Field(gt=0, lt=WIDEST)
    """Width of the encodings: the LLM's hidden size."""
    context_dim: int = Field(gt=0, lt=WIDEST)
    """Width that the U-Net's cross-attention reads; `phi` projects to it."""
    bands: int = Field(default=1, gt=0, lt=WIDEST)
    """Depth bands in an encoding."""
    base_tokens: int = Field(default=0, ge=0, lt=WIDEST)
    """Tokens of the base model's own text features, which lead the context where `base_context` is "clip"."""
    encoder: Literal["llm", "base"] = "llm"
    """What made the encodings: a decoder-only LLM, or the base model's own text encoder (a control run)."""
    encoder_fingerprint: str = ""
    """The encoder's fingerprint in the store that the adapter was trained on."""
    encoder_description: dict[str, Any] = Field(default_factory=dict)
    """Everything that the fingerprint covers."""
    llm: str = ""
    """Name of the LLM, for people."""
    llm_revision: str = ""
    """Commit of the LLM on the hub, where it was loaded from there."""
    base_model: str = ""
    """Name or folder of the base model that the adapter was trained on."""
    store: str = ""
    """The store that training read."""
    store_version: int | None = None
    """The snapshot of the store that training read."""
    training: dict[str, Any] = Field(default_factory=dict)
    """The resolved training configuration."""

    @model_validator(mode="after")
    def check(self) -> Self:
        if self.band_gates:
            check_bands(self.bands, self.encoder_fingerprint)
        return self


def check_bands(bands: int, fingerprint: str) -> None:
    """Raise ValueError where encodings have too few bands for gates."""
    if bands < 2:
        raise ValueError(
            f"adapter.band_gates mixes bands: expected several, found {bands} in {fingerprint or 'these'}: "
            "encode with more (`llmdiff encode --set bands=4`), or leave it out"
        )


def read_config(folder: str | os.PathLike[str]) -> AdapterConfig:
    """Return the ``adapter_config.json`` of a folder; FileNotFoundError or ValueError naming the file."""
    path = Path(folder) / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not found; expected an adapter folder with {CONFIG} and {WEIGHTS}")
    try:
        return AdapterConfig(**json.loads(path.read_text()))
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{path}: not an adapter configuration: {error}") from error
