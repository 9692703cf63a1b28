"""The configuration of a training run. The resolved one is ``config.json`` in the run's folder; see `resolve`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from llmdiff.adapter.config import AdapterSettings
from llmdiff.model_files.model_folders import is_same_path

CONFIG, LAYOUT_LOG = "config.json", "layout.jsonl"
LRScheduler = Literal["constant", "constant_with_warmup", "cosine", "cosine_with_restarts", "linear", "polynomial"]
POLYNOMIAL_END = 1e-7
"""Last rate of diffusers' polynomial schedule."""

# DeepSpeed settings that follow from `TrainConfig`; a DeepSpeed file that names one would contradict it.
OWNED: tuple[str, ...] = (
    "train_batch_size",
    "train_micro_batch_size_per_gpu",
    "gradient_accumulation_steps",
    "gradient_clipping",
)
OWNED += ("optimizer", "scheduler", "bf16", "fp16")

# What a resumed run may change: what it logs, saves and shows, and how its steps are laid out over processes as long as
# their batches stay the same. Anything else would bend its loss curve.
FREE = {"log_every", "checkpoint_every", "keep_checkpoints", "sample_every", "threads", "output", "skip_limit"}
FREE |= {"validation_prompts", "validation_steps", "validation_guidance", "llm", "llm_revision"}
FREE |= {"batch_size", "accumulate", "zero_stage", "deepspeed", "gradient_checkpointing", "processes", "hosts"}
FREE |= {"torch_compile", "channels_last"}

LATER = {"layout_steps", "layout_batch_size", "layout_learning_rate", "torch_compile", "channels_last"}
LATER |= {"lr_scheduler", "lr_num_cycles", "lr_power", "optimizer"}
"""Settings that are left out where they are the defaults: what was written before there were any compares equal."""
UNNAMED = {"caption_choice", "flip", "flip_words", "kohya_repeats"}
"""Later settings that are written at their defaults too, but are then left out of a run's name."""


class TrainSettings(BaseModel):
    """How an adapter is trained: what a user may choose."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    adapter: AdapterSettings = AdapterSettings()
    """The method's choices."""
    base_fingerprint: str | None = None
    """Which of the base model's own text features in the store to read with `adapter.base_context` "clip", if there are
    several."""
    pooled_fingerprint: str | None = None
    """Which of the pooled embeddings in the store to read with an SDXL base, if there are several."""

    start_from: str | None = None
    """An adapter folder, version in the registry, or name on the hub, whose weights training goes on from, with a fresh
    optimiser and schedule; None begins anew."""

    steps: int | None = Field(default=None, gt=0)
    """Optimiser steps; or set `epochs`. The train flow takes 1000 where neither is set."""
    epochs: int | None = Field(default=None, gt=0)
    """Passes over the store; or set `steps`."""
    batch_size: int = Field(default=8, gt=0)
    """Samples a process takes at once."""
    accumulate: int = Field(default=1, gt=0)
    """Batches whose gradients make one step."""
    optimizer: Literal["adamw", "adamw_8bit"] = "adamw"
    """AdamW with moments of 32 bits, or of 8 by torchao (extra `quantized`), a quarter of their memory. These go with
    `zero_stage` 0 alone, and their step is compiled: on a CPU they need a C++ compiler."""
    learning_rate: float = Field(default=1e-4, gt=0)
    """AdamW's learning rate, after warm-up and before it decays."""
    lr_scheduler: LRScheduler = "cosine"
    """How the learning rate goes on after warm-up, as diffusers names it: half a cosine or a line down to 0, a cosine
    that starts again, a polynomial down to 1e-7, or as it is. "constant" alone has no warm-up."""
    lr_num_cycles: int = Field(default=1, ge=1)
    """Cosines of `lr_scheduler` "cosine_with_restarts"."""
    lr_power: float = Field(default=1.0, gt=0)
    """Power of `lr_scheduler` "polynomial"; 1 is a line."""
    weight_decay: float = Field(default=0.01, ge=0)
    """AdamW's weight decay, for weight matrices alone: none on scalars, norms and biases."""
    warmup: int = Field(default=100, ge=0)
    """Steps over which the learning rate rises from 0."""
    layout_steps: int = Field(default=0, ge=0)
    """Steps of layout pre-training before the first one: `phi` and the refiner learn to tell a picture's layout from
    its caption, without the U-Net. None with `start_from`."""
    layout_batch_size: int = Field(default=64, gt=0)
    """Samples in a step of layout pre-training, over all processes."""
    layout_learning_rate: float = Field(default=1e-3, gt=0)
    """Highest learning rate of AdamW in layout pre-training."""
    caption_dropout: float = Field(default=0.1, ge=0, le=1)
    """Share of samples that see the empty caption, for classifier-free guidance."""
    timestep_exponent: float = Field(default=1.0, gt=0)
    """Timesteps are drawn as ``T u^exponent``, u uniform: 1 is uniform, 0.5 takes more of the noisy ones."""
    min_snr_gamma: float | None = Field(default=None, gt=0)
    """Min-SNR loss weighting (5 is usual); None is the plain mean squared error."""
    ema_decay: float = Field(default=0.999, ge=0, lt=1)
    """Decay of the averaged weights, which become the result; 0 keeps the last weights."""
    grad_clip: float = Field(default=1.0, ge=0)
    """Norm to which the gradient is clipped; 0 is no clipping."""
    skip_limit: int = Field(default=5, gt=0)
    """Steps in a row whose loss or gradient is not finite, each left out, after which the run stops. In fp16, those
    that a smaller loss scale may help don't count."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Precision of the forward and backward pass; weights, optimiser and averages stay fp32. fp16 comes with a
    dynamic loss scale."""
    gradient_checkpointing: bool = False
    """Whether the U-Net recomputes activations in the backward pass, to save memory."""
    torch_compile: bool = False
    """Compile U-Net and adapter with `torch.compile`: the first steps take minutes on a GPU, and results differ by
    rounding. Each size of picture has code of its own; any number of tokens shares it. Not with `zero_stage` 3."""
    channels_last: bool = False
    """Keep the U-Net's convolutions in the memory format `channels_last`; results differ by rounding."""
    seed: int = 0
    """Seed of the order of samples, what is drawn of them, noise, timesteps and dropout."""

    caption_choice: Literal["all", "one"] = "all"
    """Captions of a picture that has several: "all" makes each a sample of its own, "one" draws one each epoch, so that
    a picture counts once however many it has."""
    flip: bool = True
    """Mirror each picture or not, as drawn each epoch, where the store has mirror images (`encode --flip`)."""
    flip_words: tuple[str, ...] = ("left", "right")
    """A picture is never mirrored where its caption has one of these words."""
    kohya_repeats: bool = False
    """Take the number before a folder's name, as in ``10_name/``, for how often its pictures come in an epoch."""

    zero_stage: Literal[0, 1, 2, 3] = 2
    """DeepSpeed ZeRO stage."""
    deepspeed: str | None = None
    """A DeepSpeed JSON file with more settings (offloading, buckets, communication); see ``infra/deepspeed``."""
    threads: int | None = Field(default=None, gt=0)
    """CPU threads of each process; None shares the machine's cores out among its processes."""

    log_every: int = Field(default=10, gt=0)
    """Steps between rows of ``metrics.jsonl``."""
    checkpoint_every: int = Field(default=500, gt=0)
    """Steps between resumable checkpoints; there is one at the end as well."""
    keep_checkpoints: int = Field(default=2, gt=0)
    """How many of the newest checkpoints stay."""
    sample_every: int | None = Field(default=None, gt=0)
    """Steps between validation samples; None is none."""
    validation_prompts: tuple[str, ...] = ()
    """Captions to sample, each encoded in the store; training itself runs no text encoder."""
    validation_steps: int = Field(default=20, gt=0)
    """Sampling steps of a validation sample."""
    validation_guidance: float = 5.0
    """Classifier-free guidance scale of a validation sample."""

    @model_serializer(mode="wrap")
    def leave_out_defaults(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Return the settings that are written: those of `LATER` only where they are not the defaults."""
        fields, written = TrainSettings.model_fields, write(self)
        return {key: value for key, value in written.items() if key not in LATER or value != fields[key].default}

    @model_validator(mode="after")
    def check_settings(self) -> Self:
        if self.steps is not None and self.epochs is not None:
            raise ValueError("expected either steps or epochs")
        if self.base_fingerprint is not None and self.adapter.base_context != "clip":
            raise ValueError('base_fingerprint goes with adapter.base_context "clip" alone')
        if self.lr_scheduler == "polynomial" and self.learning_rate <= POLYNOMIAL_END:
            end = f"{POLYNOMIAL_END:g}, where a polynomial schedule ends"
            raise ValueError(f"learning_rate: expected more than {end}, found {self.learning_rate:g}")
        if self.optimizer == "adamw_8bit" and self.zero_stage != 0:
            raise ValueError(
                f"optimizer 'adamw_8bit' goes with zero_stage 0, found {self.zero_stage}: the others part it"
            )
        if self.torch_compile and self.zero_stage == 3:
            raise ValueError("torch_compile goes with zero_stage 0, 1 or 2: 3 fetches weights between the kernels")
        if self.sample_every is not None and not self.validation_prompts:
            raise ValueError("sample_every is set: expected validation_prompts")
        if not all(word.strip() for word in self.flip_words):
            raise ValueError(f"flip_words: expected words, found {list(self.flip_words)}")
        return self


class TrainConfig(TrainSettings):
    """Everything that a run reads, trains and writes, and how."""

    store: str
    """Folder of the encoding store."""
    store_id: str = ""
    """Identity of the store, wherever it lies; empty in runs from before stores had one."""
    store_version: int | None = None
    """Snapshot of the store; None until `llmdiff.training.resolve` pins one."""
    fingerprint: str
    """Fingerprint of the encodings of captions that the adapter reads."""
    llm: str = ""
    """Name or folder of the LLM behind the fingerprint, for the adapter's lineage; it is not loaded."""
    llm_revision: str = ""
    """The LLM's commit on the hub."""
    base: str
    """Folder, name or single file of the base diffusion model."""
    parent: str = ""
    """Address of the registered version that `start_from` is the folder of, for the adapter's lineage."""
    output: str
    """Folder of the run: ``config.json``, ``metrics.jsonl``, ``checkpoints/``, ``samples/``; the result is
    ``adapter/``, the averaged weights, and ``adapter-raw/``, the last ones."""
    processes: int = Field(default=1, gt=0)
    """Training processes, on all hosts together."""
    hosts: tuple[str, ...] = ()
    """Names of the hosts, the first one first; none is one machine alone."""

    @model_validator(mode="after")
    def check(self) -> Self:
        if self.steps is None and self.epochs is None:
            raise ValueError("expected either steps or epochs")
        if self.adapter.base_context == "clip" and self.base_fingerprint is None:
            raise ValueError('adapter.base_context is "clip": expected base_fingerprint')
        return self

    @property
    def global_batch(self) -> int:
        """Return the samples of a step, over all processes."""
        return self.batch_size * self.accumulate * self.processes

    @property
    def path(self) -> Path:
        """Return the path of the resolved configuration."""
        return Path(self.output) / CONFIG

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> TrainConfig:
        """Return the configuration of a JSON file; raise FileNotFoundError, or ValueError naming file and field."""
        text = Path(path).read_text()
        try:
            return cls(**json.loads(text))
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"]) or "configuration"
            raise ValueError(f"{path}: {field}: {first['msg']}, found {first['input']!r}") from error
        except (json.JSONDecodeError, TypeError) as error:
            raise ValueError(f"{path}: not a JSON object: {error}") from error

    def write(self, path: str | os.PathLike[str]) -> Path:
        """Save the configuration as JSON that `read` takes, in one piece: a process that reads it finds all or none."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.part")
        part.write_text(self.model_dump_json(indent=2) + "\n")
        part.replace(path)
        return path

    def check_same(self, path: Path) -> None:
        """Raise ValueError where the run of ``config.json`` at `path` differs in more than a resumed run may change."""
        if not path.exists():
            return
        defaults = TrainSettings().model_dump(mode="json") | {
            key: TrainSettings.model_fields[key].default for key in LATER
        }
        before, now = defaults | json.loads(path.read_text()), defaults | json.loads(self.model_dump_json())
        if before.get("store_id") and before["store_id"] == now["store_id"]:
            before["store"] = now["store"]  # the store was moved, or is a copy
        for key in ("base", "start_from"):
            if is_same_path(before.get(key), now.get(key)):
                before[key] = now[key]
        if changed := sorted(key for key in now.keys() - FREE if key in before and before[key] != now[key]):
            key = changed[0]
            raise ValueError(
                f"{path}: the run began with {key} {before[key]!r}, found {now[key]!r}: use another output"
            )

    def for_deepspeed(self) -> dict[str, Any]:
        """Return the configuration as ``deepspeed.initialize`` takes it."""
        extra: dict[str, Any] = {} if self.deepspeed is None else json.loads(Path(self.deepspeed).read_text())
        if clash := sorted(set(OWNED) & set(extra)):
            raise ValueError(f"{self.deepspeed}: {clash[0]} follows from the run's own configuration: leave it out")
        alone = {"reduce_scatter": False} if self.processes == 1 and self.zero_stage in (1, 2) else {}
        zero = {"stage": self.zero_stage, **DEFAULT_ZERO, **alone, **extra.pop("zero_optimization", {})}
        if zero["stage"] != self.zero_stage:
            raise ValueError(f"{self.deepspeed}: ZeRO stage {zero['stage']}, but zero_stage is {self.zero_stage}")
        return {
            "train_micro_batch_size_per_gpu": self.batch_size,
            "gradient_accumulation_steps": self.accumulate,
            "gradient_clipping": self.grad_clip if self.zero_stage else 0.0,  # in stage 0, `ZeroStage0Optimizer` clips
            "zero_optimization": zero,
            "zero_allow_untested_optimizer": True,
            "steps_per_print": 2**31,
            **extra,
        }


# DeepSpeed's default buckets take 2 GB each, and an adapter has 50 M parameters. Its memory-efficient linear layer
# (ZeRO 3) takes the place of torch's in the whole process, the frozen U-Net included. Alone, a process has nobody to
# scatter its gradients to, and is spared copies of them: the sums are the same to the last digit.
DEFAULT_ZERO = {
    "reduce_bucket_size": 50_000_000,
    "allgather_bucket_size": 50_000_000,
    "overlap_comm": False,
    "memory_efficient_linear": False,
}
