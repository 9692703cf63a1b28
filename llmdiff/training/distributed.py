"""Start DeepSpeed in one process or many, on a CPU or on GPUs."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist

from llmdiff.training.config import TrainConfig
from llmdiff.training.objective import Objective
from llmdiff.training.optimiser.adamw_8bit import zero_stage_0_adamw_8bit
from llmdiff.training.optimiser.deepspeed_internals import leave_muon_uncompiled, leave_out_shared_memory, placed
from llmdiff.training.optimiser.zero_stage_0 import ZeroStage0AdamW


def start(config: TrainConfig) -> torch.device:
    """Join the others, check that all read the same configuration, and return this process's device.

    Raises:
        ValueError: the processes read different configurations.
    """
    join()
    # Processes with a thread for every core each slow one another down tenfold.
    cores = len(os.sched_getaffinity(0))
    torch.set_num_threads(config.threads or max(1, cores // int(os.environ.get("LOCAL_SIZE", 1))))
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if torch.cuda.is_available() else torch.device("cpu")
    check_alike(config, device)
    return device


def join() -> None:
    """Join the processes that DeepSpeed's launchers started, or make a group of one."""
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    if "RANK" not in os.environ:  # no launcher: DeepSpeed would ask for MPI
        os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", LOCAL_SIZE="1")
    if os.environ["WORLD_SIZE"] == "1" and not dist.is_initialized():  # needs no port, which others may take first
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    import deepspeed  # late: this import takes seconds

    deepspeed.utils.logger.setLevel("WARNING")
    leave_out_shared_memory()
    leave_muon_uncompiled()
    deepspeed.init_distributed(verbose=False)
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))


def check_alike(config: TrainConfig, device: torch.device) -> None:
    """Raise ValueError on every process if one of them has read another configuration."""
    found = zlib.crc32(config.model_dump_json().encode())
    ends = torch.tensor([found, -found], device=device)
    dist.all_reduce(ends, op=dist.ReduceOp.MIN)  # the minimum, and minus the maximum
    if ends.sum() != 0:
        raise ValueError(
            f"{config.output}: not the same configuration on every host: expected a folder that all hosts share, "
            "started with the same options"
        )


def from_first(find: Callable[[], str], device: torch.device) -> str:
    """Return, on every process, what `find` returns on the first one; its ValueError is raised on every process."""
    text, failed = "", False
    if dist.get_rank() == 0:
        try:
            text = find()
        except ValueError as error:
            text, failed = str(error), True
    if dist.get_world_size() > 1:
        sent = list(f"{text}\n".encode())
        about = torch.tensor([len(sent), failed], device=device)
        dist.broadcast(about, 0)
        length, failed = about.tolist()
        data = torch.tensor(sent if dist.get_rank() == 0 else [0] * length, dtype=torch.uint8, device=device)
        dist.broadcast(data, 0)
        text = bytes(data.tolist()).decode().removesuffix("\n")
    if failed:
        raise ValueError(text)
    return text


def any_process(flag: bool, device: torch.device) -> bool:
    """Return whether a flag is set on any process: all of them must stop at the same step."""
    vote = torch.tensor(float(flag), device=device)
    if dist.get_world_size() > 1:
        dist.all_reduce(vote, op=dist.ReduceOp.MAX)
    return vote.item() > 0


def gathered(module: torch.nn.Module) -> AbstractContextManager[Any]:
    """Make a module's parameters whole on every process for a while; ZeRO 3 keeps a part of each on each."""
    import deepspeed

    parts = placed(module.parameters())
    return deepspeed.zero.GatheredParameters(parts) if parts else nullcontext()


def wrap(objective: Objective, config: TrainConfig) -> Any:
    """Return the DeepSpeed engine of an objective: AdamW on what is trained, ZeRO as configured."""
    import deepspeed

    optimiser = optimiser_of(config, parameter_groups(objective, config.weight_decay))
    return deepspeed.initialize(model=objective, optimizer=optimiser, config=config.for_deepspeed())[0]


def optimiser_of(config: TrainConfig, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """Return the optimiser that a run asks for; under ZeRO 1 to 3 DeepSpeed clips."""
    if config.optimizer == "adamw_8bit":
        return zero_stage_0_adamw_8bit(groups, config.grad_clip, lr=config.learning_rate)
    if config.zero_stage == 0:
        return ZeroStage0AdamW(groups, config.grad_clip, lr=config.learning_rate, fused=True)
    return torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)


def parameter_groups(module: torch.nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return what is trained, in groups: matrices with weight decay; scalars, norms and biases without."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
