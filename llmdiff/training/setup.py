"""Everything a run needs before its first step; each check comes before the work it saves."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from llmdiff.adapter import LLMAdapter
from llmdiff.diffusion.base import load_noise_schedule, load_unet
from llmdiff.training.config import TrainConfig
from llmdiff.training.distributed import start, wrap
from llmdiff.training.ema import Average
from llmdiff.training.encodings import read_encodings
from llmdiff.training.objective import Null, Objective
from llmdiff.training.validation import Validation
from storage import EncodingStore
from storage.reader import EncodingDataset

# A resumed run may log, save and show as it likes; anything else would bend its loss curve.
FREE = {"log_every", "checkpoint_every", "keep_checkpoints", "sample_every", "threads", "output"}
FREE |= {"validation_prompts", "validation_steps", "validation_guidance"}


@dataclass(kw_only=True)
class Run:
    """What the loop works on."""

    config: TrainConfig
    device: torch.device
    rank: int
    steps: int
    data: EncodingDataset
    objective: Objective
    engine: Any
    average: Average
    validation: Validation | None

    @property
    def timesteps(self) -> int:
        return int(self.objective.schedule.config.num_train_timesteps)

    def any_process(self, *flags: bool) -> list[bool]:
        """For each flag, whether it is set on any process: all of them must stop at the same step."""
        votes = torch.tensor(flags, dtype=torch.float32, device=self.device)
        if dist.get_world_size() > 1:
            dist.all_reduce(votes, op=dist.ReduceOp.MAX)
        return [vote > 0 for vote in votes.tolist()]

    def save_adapter(self) -> Path:
        """Writes the result, the averaged weights, from the first process."""
        folder = Path(self.config.output) / "adapter"
        if self.rank == 0:
            self.objective.adapter.save(folder, self.average.tensors)
        dist.barrier()
        return folder

    def sample(self, step: int) -> None:
        """Draws the validation prompts as they are at `step`."""
        if self.rank == 0 and self.validation is not None:
            self.validation.sample(step, self.average)
        dist.barrier()


def prepare(config: TrainConfig) -> Run:
    """Joins the processes, opens the store, loads the U-Net, builds adapter and engine."""
    device = start(config)
    config = pinned(config)
    store = EncodingStore.open(config.store, version=config.store_version)
    check_fingerprints(config, store)
    keep_config(config)
    data = EncodingDataset(
        config.store,
        config.store_version,
        config.fingerprint,
        config.batch_size,
        seed=config.seed,
        rank=dist.get_rank(),
        world_size=dist.get_world_size(),
        base_fingerprint=config.base_fingerprint,
    )
    # The frozen weights in the precision of the pass: autocast would cast them again at every step.
    unet = load_unet(config.base, torch.bfloat16 if config.precision == "bf16" else torch.float32).to(device)
    if config.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
        unet.train()  # diffusers recomputes in training mode alone; these U-Nets have no dropout
    null = read_null(config, store)
    adapter = build_adapter(config, store, unet, null).to(device)
    adapter.install(unet)
    objective = Objective(adapter, unet, load_noise_schedule(config.base), null, config)
    validation = Validation(config, store, objective) if config.sample_every is not None else None
    average = Average(adapter.state(), config.ema_decay)  # before ZeRO 3 takes the weights apart
    return Run(
        config=config,
        device=device,
        rank=dist.get_rank(),
        steps=config.steps or (config.epochs or 0) * data.batches_per_epoch // config.accumulate,
        data=data,
        objective=objective,
        engine=wrap(objective, config),
        average=average,
        validation=validation,
    )


def check_fingerprints(config: TrainConfig, store: EncodingStore) -> None:
    """ValueError where the store has no encodings of a fingerprint."""
    known = store.fingerprints()
    for fingerprint in filter(None, (config.fingerprint, config.base_fingerprint)):
        if fingerprint not in known:
            raise ValueError(f"{config.store}: expected encodings of {fingerprint}, found those of {sorted(known)}")


def pinned(config: TrainConfig) -> TrainConfig:
    """The configuration with the snapshot it began with, or the newest one where it begins now."""
    if config.store_version is not None:
        return config
    path = Path(config.output) / "config.json"
    version = TrainConfig.read(path).store_version if path.exists() else EncodingStore.open(config.store).version
    return config.model_copy(update={"store_version": version})


def keep_config(config: TrainConfig) -> None:
    """Saves the resolved configuration, or checks that a resumed run goes on as it began."""
    path = Path(config.output) / "config.json"
    if path.exists():
        before, now = json.loads(path.read_text()), json.loads(config.model_dump_json())
        if changed := sorted(key for key in now.keys() - FREE if before.get(key) != now[key]):
            key = changed[0]
            raise ValueError(
                f"{path}: the run began with {key} {before.get(key)!r}, found {now[key]!r}: use another output"
            )
    dist.barrier()
    if dist.get_rank() == 0:
        config.write(path)


def read_null(config: TrainConfig, store: EncodingStore) -> Null:
    """The empty caption's encodings."""
    (encoding,) = read_encodings(store, config.fingerprint, [""])
    if config.base_fingerprint is None:
        return Null(encoding, None)
    return Null(encoding, *read_encodings(store, config.base_fingerprint, [""]))


def build_adapter(config: TrainConfig, store: EncodingStore, unet: Any, null: Null) -> LLMAdapter:
    """A new adapter, the same on every process, with its lineage."""
    torch.manual_seed(config.seed)
    description = store.fingerprints()[config.fingerprint]
    return LLMAdapter.for_unet(
        unet,
        config.adapter,
        encoding_dim=null.encoding.shape[-1],
        bands=null.encoding.shape[0] if null.encoding.ndim == 3 else 1,
        base_tokens=0 if null.base is None else null.base.shape[0],
        encoder="base" if description.get("kind") == "base" else "llm",
        encoder_fingerprint=config.fingerprint,
        encoder_description=description,
        llm=config.llm or name_of(description),
        base_model=config.base,
        store=config.store,
        store_version=config.store_version,
        training=json.loads(config.model_dump_json()),
    )


def name_of(description: dict[str, Any]) -> str:
    """What to call an LLM that nobody named: its class and the start of its content's hash."""
    about = description.get("llm", {})
    return " ".join(filter(None, (about.get("class"), about.get("content", "")[:12])))
