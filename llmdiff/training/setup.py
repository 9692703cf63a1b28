"""Everything a run needs before its first step; each check comes before the work it saves."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from llmdiff.adapter import LLMAdapter
from llmdiff.diffusion.base import load_noise_schedule, load_unet, unet_config
from llmdiff.training.checkpoints.checkpoint import load_adapter, load_moments, newest, save
from llmdiff.training.checkpoints.state import EMA_FOLDER, State, read_state
from llmdiff.training.checkpoints.warm_start import load_initial_checkpoint
from llmdiff.training.config import TrainConfig
from llmdiff.training.data.encoding_statistics import set_statistics
from llmdiff.training.data.kohya import read_repeats
from llmdiff.training.data.micro_conditioning import MicroConditioning, check_conditions, pixels_to_a_latent
from llmdiff.training.data.stored_encodings import read_encodings
from llmdiff.training.distributed import any_process, gathered, wrap
from llmdiff.training.layout import pretrain_layout
from llmdiff.training.metrics import MetricLogger
from llmdiff.training.objective import DTYPES, Objective, UnconditionalEmbedding, prepare_unet
from llmdiff.training.optimiser.adamw import LossScale, moments, restore, updates
from llmdiff.training.optimiser.ema import EMA
from llmdiff.training.resolve import check_resolved, check_store
from llmdiff.training.validation import Validation, cut_samples
from storage import EncodingStore
from storage.reading.dataset import DatasetConfig, EncodingDataset


@dataclass(kw_only=True)
class Run:
    """Everything that the training loop works on."""

    config: TrainConfig
    device: torch.device
    rank: int
    processes: int
    state: State
    """State from which the run goes on."""
    data: EncodingDataset
    objective: Objective
    engine: Any
    scale: LossScale
    ema: EMA
    validation: Validation | None

    @property
    def timesteps(self) -> int:
        return int(self.objective.schedule.config.num_train_timesteps)

    @property
    def steps(self) -> int:
        """Steps of the whole run. An epoch's steps may depend on the number of processes: those done count as done."""
        if self.config.steps is not None:
            return self.config.steps
        assert self.config.epochs is not None
        later = self.config.epochs - self.state.epoch - 1
        return self.state.step + self.data.batches_left(self.state.where) + later * self.data.batches_per_epoch

    @property
    def checkpoints(self) -> Path:
        return Path(self.config.output) / "checkpoints"

    def any_process(self, flag: bool) -> bool:
        """Return whether a flag is set on any process."""
        return any_process(flag, self.device)

    def save(self, step: int, epoch: int, seen: tuple[int, ...], metrics: MetricLogger) -> None:
        """Write a checkpoint on the first process. Every process calls this, as each holds a part of the content."""
        adapter = self.objective.adapter
        content = moments(self.engine, adapter)
        state = State(
            step=step,
            epoch=epoch,
            position=sum(seen),
            seen=seen,
            global_batch=self.state.global_batch,
            updates=updates(self.engine),
            skipped=metrics.skipped,
            loss_scale=self.scale.value,
            good_steps=self.scale.good_steps,
            sums=metrics.total(),
        )
        with gathered(adapter):
            if self.rank == 0:
                save(self.checkpoints, state, adapter, content, self.ema, self.config.keep_checkpoints)
        dist.barrier()

    def save_adapter(self) -> Path:
        """Write the result on the first process: the averaged weights, and the last ones beside them."""
        folder = Path(self.config.output) / "adapter"
        adapter = self.objective.adapter
        with gathered(adapter):
            if self.rank == 0:
                adapter.save(folder.with_name("adapter-raw"))
                adapter.save(folder, self.ema.tensors)
        dist.barrier()
        return folder

    def sample(self, step: int) -> None:
        """Draw the validation prompts at `step`."""
        if self.rank == 0 and self.validation is not None:
            self.validation.sample(step, self.ema)
        dist.barrier()


def prepare(config: TrainConfig, device: torch.device, interrupted: Sequence[int] = ()) -> Run:
    """Open the store, load the U-Net, build adapter and engine, and go on from the newest whole checkpoint.

    Layout pre-training ends early once `interrupted` holds something; the run is then to take no step.
    """
    check_resolved(config, dist.get_world_size())
    store = EncodingStore.open(config.store, version=config.store_version)
    check_store(config, store)
    data = open_data(config)
    found = newest(Path(config.output) / "checkpoints", device)
    state = start_state(config) if found is None else read_state(found)
    unconditional = read_unconditional(config, store)
    check_conditions(config, unet_config(config.base), unconditional.base, unconditional.pooled)
    micro_conditioning = (
        None
        if unconditional.pooled is None
        else MicroConditioning(unconditional.pooled[0], pixels_to_a_latent(store, data.index.shapes))
    )
    if dist.get_rank() == 0:
        cut_samples(config, state.step)
    # The frozen weights in the precision of the pass: autocast would cast them again at every step.
    unet = load_unet(config.base, DTYPES[config.precision]).to(device)
    prepare_unet(unet, config)
    adapter = build_adapter(config, store, unet, unconditional)
    if found is None and config.start_from is not None:
        load_initial_checkpoint(adapter, config.start_from, unet)
    elif found is None and adapter.phi.standardisation is not None:
        set_statistics(adapter.phi.standardisation, store, config.fingerprint, device)
    adapter.to(device)
    std = noise_std(config, store)
    objective = Objective(
        adapter, unet, load_noise_schedule(config.base), unconditional, config, std, micro_conditioning
    )
    if found is None and config.start_from is None and config.layout_steps:
        pretrain_layout(objective, open_layout_data(config), device, interrupted)
    ema = EMA(adapter.state(), config.ema_decay)
    if found is not None:
        adapter.load_state(load_adapter(found))
        ema.load(load_adapter(found / EMA_FOLDER))
    ema.to(device)
    adapter.install(unet)
    engine = wrap(objective, config)  # last, for ZeRO 3 partitions the weights
    if found is not None:
        restore(engine, adapter, load_moments(found), state.updates)
    return Run(
        config=config,
        device=device,
        rank=dist.get_rank(),
        processes=dist.get_world_size(),
        state=state,
        data=data,
        objective=objective,
        engine=engine,
        scale=LossScale(engine, config.precision, state.loss_scale, state.good_steps),
        ema=ema,
        validation=Validation(config, store, objective) if config.sample_every is not None else None,
    )


def open_data(config: TrainConfig) -> EncodingDataset:
    """Open this process's share of every step's batch: `accumulate` batches in one, so that no step spans epochs."""
    data = DatasetConfig(
        fingerprint=config.fingerprint,
        version=config.store_version,
        batch_size=config.batch_size * config.accumulate,
        seed=config.seed,
        rank=dist.get_rank(),
        world_size=dist.get_world_size(),
        base_fingerprint=config.base_fingerprint,
        pooled_fingerprint=config.pooled_fingerprint,
        caption_choice=config.caption_choice,
        flip=config.flip,
        flip_words=config.flip_words,
        repeats=read_repeats(config) if config.kohya_repeats else {},
        read_ahead=max(1, 8 // config.accumulate),
    )
    return EncodingDataset(config.store, data)


def open_layout_data(config: TrainConfig) -> EncodingDataset:
    """Open this process's share of the samples of layout pre-training."""
    share = max(1, config.layout_batch_size // dist.get_world_size())
    return open_data(config.model_copy(update={"batch_size": share, "accumulate": 1}))


def start_state(config: TrainConfig) -> State:
    """Return the state of a run that begins."""
    return State(global_batch=config.global_batch, loss_scale=LossScale.start(config.precision))


def read_unconditional(config: TrainConfig, store: EncodingStore) -> UnconditionalEmbedding:
    """Return the empty caption's encodings."""

    def read(fingerprint: str | None) -> Tensor | None:
        return None if fingerprint is None else read_encodings(store, fingerprint, [""])[0]

    (encoding,) = read_encodings(store, config.fingerprint, [""])
    return UnconditionalEmbedding(encoding, read(config.base_fingerprint), read(config.pooled_fingerprint))


def build_adapter(
    config: TrainConfig, store: EncodingStore, unet: Any, unconditional: UnconditionalEmbedding
) -> LLMAdapter:
    """Return a new adapter, the same on every process, with its lineage."""
    torch.manual_seed(config.seed)
    description = store.fingerprints()[config.fingerprint]
    return LLMAdapter.for_unet(
        unet,
        config.adapter,
        encoding_dim=unconditional.encoding.shape[-1],
        bands=unconditional.encoding.shape[0] if unconditional.encoding.ndim == 3 else 1,
        base_tokens=0 if unconditional.base is None else unconditional.base.shape[0],
        encoder="base" if description.get("kind") == "base" else "llm",
        encoder_fingerprint=config.fingerprint,
        encoder_description=description,
        llm=config.llm or name_of(description),
        llm_revision=config.llm_revision,
        base_model=config.base,
        store=config.store,
        store_version=config.store_version,
        training=json.loads(config.model_dump_json()),
    )


def noise_std(config: TrainConfig, store: EncodingStore) -> list[float]:
    """Return the standard deviation of the Langevin noise that is left to training, band by band; empty without any."""
    description = store.fingerprints()[config.fingerprint]
    if description.get("noise") == "fresh" and "noise_std" not in description:
        raise ValueError(
            f"{config.store}: the encodings {config.fingerprint} leave their noise to training and don't say how much: "
            "encode again"
        )
    return list(description.get("noise_std", []))


def name_of(description: dict[str, Any]) -> str:
    """Return a name for an unnamed LLM: its class and the first digits of its content's hash."""
    about = description.get("llm", {})
    return " ".join(filter(None, (about.get("class"), about.get("content", "")[:12])))
