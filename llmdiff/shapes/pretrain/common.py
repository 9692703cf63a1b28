"""What pretraining runs share: seeding, the learning-rate schedule, EMA, progress, fp16 saving and the card."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.optimization import get_cosine_schedule_with_warmup
from diffusers.training_utils import EMAModel
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm


@contextmanager
def fast_cpu_math() -> Iterator[None]:
    """Use plain attention, whose backward pass beats the flash kernel's in small models, and bf16 where AMX has it."""
    with sdpa_kernel(SDPBackend.MATH), torch.autocast("cpu", dtype=torch.bfloat16, enabled=has_amx()):
        yield


def has_amx() -> bool:
    """Return whether this CPU multiplies bf16 matrices in hardware; without it bf16 is slower than fp32."""
    return bool(torch.cpu.get_capabilities().get("amx_bf16"))


def train(
    name: str,
    parameters: list[torch.nn.Parameter],
    loss_of: Callable[[int], torch.Tensor],
    steps: int,
    learning_rate: float,
    ema_decay: float = 0.999,
    schedule_steps: int | None = None,
    checkpoint: Callable[[int], None] | None = None,
) -> dict[str, float]:
    """Train by AdamW with warm-up and cosine decay over `schedule_steps` (or `steps`, where none is to be cut off).

    The parameters end as their EMA. Return the figures for the card.
    """
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.01, betas=(0.9, 0.99), fused=True)
    schedule = get_cosine_schedule_with_warmup(optimizer, min(200, steps // 10), schedule_steps or steps)
    ema = EMAModel(parameters, decay=ema_decay, use_ema_warmup=True, power=0.75)
    start, losses = time.monotonic(), []
    bar = tqdm(range(steps), desc=name, mininterval=5, file=sys.stdout)
    for step in bar:
        loss = loss_of(step)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        ema.step(parameters)
        losses.append(loss.item())
        if step % 50 == 0:
            bar.set_postfix(loss=f"{np.mean(losses[-200:]):.4f}")
        if checkpoint is not None and (step + 1) % 2000 == 0 and step + 1 < steps:
            ema.store(parameters)
            ema.copy_to(parameters)
            checkpoint(step + 1)
            ema.restore(parameters)
    ema.copy_to(parameters)
    return {"steps": steps, "seconds": round(time.monotonic() - start), "final_loss": float(np.mean(losses[-200:]))}


def save_fp16(model: Any, folder: Path) -> None:
    """Call `save_pretrained` in fp16 safetensors, leaving the model itself as it is."""
    dtype = next(model.parameters()).dtype
    model.half().save_pretrained(folder, safe_serialization=True)
    model.to(dtype)


def write_card(folder: Path, **facts: Any) -> None:
    """Write the card beside the weights: data, steps, seed, command, figures."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "card.json").write_text(json.dumps(facts, indent=2, sort_keys=True) + "\n")
