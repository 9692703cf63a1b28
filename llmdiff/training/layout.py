"""Layout pre-training: `phi` and the refiner learn to tell a picture's layout, before the U-Net is asked for anything.

At the noisiest timestep nothing is left of a picture, and the best prediction of it is the mean of all pictures that go
with its caption. A small decoder makes that prediction from the adapter's context alone, at a part of what a step
through the U-Net costs; it is thrown away when it has taught `phi` and the refiner what things are, and where.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import closing, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import torch
import torch.distributed as dist
import torch.nn.functional as F
from diffusers.models.embeddings import get_2d_sincos_pos_embed
from torch import Tensor, nn
from tqdm import tqdm

from llmdiff.adapter.attention import padding_bias
from llmdiff.adapter.padding import by_length
from llmdiff.adapter.phi import Float32LayerNorm
from llmdiff.adapter.refiner import RefinerBlock
from llmdiff.training.config import LAYOUT_LOG
from llmdiff.training.data.rank_batches import endless
from llmdiff.training.distributed import any_process
from llmdiff.training.objective import Objective, plain_attention, sample_generators

if TYPE_CHECKING:
    from storage.reading.dataset import Batch, EncodingDataset

LONGEST = 16  # places along a layout's longer side, at most
BLOCKS, WIDENING = 2, 2
PATCH = 2  # side of the patch of places that a query of the decoder answers for, to save queries
CLIP = 1.0  # norm of the gradient
RISE = 0.1  # share of the steps in which the rate rises


def pretrain_layout(
    objective: Objective, data: EncodingDataset, device: torch.device, interrupted: Sequence[int] = ()
) -> None:
    """Train `phi` and the refiner of an adapter on all processes alike, in place; `data` is this process's share.

    The first process writes rows to `LAYOUT_LOG` in the run's folder. Steps whose gradient is not finite are left out.
    It ends early once `interrupted` holds something on any process.
    """
    config, adapter = objective.config, objective.adapter
    decoder = LayoutDecoder(adapter.config.context_dim, objective.frozen[0].config.in_channels).to(device)
    modules = nn.ModuleList(module for module in (adapter.phi, adapter.refiner, decoder) if module is not None)
    trained = [parameter for parameter in modules.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=config.layout_learning_rate, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, config.layout_learning_rate, total_steps=config.layout_steps, pct_start=RISE, cycle_momentum=False
    )
    batches, first, steps = endless(data), dist.get_rank() == 0, config.layout_steps
    with (
        closing(batches),
        plain_attention(device),
        new_log(Path(config.output) / LAYOUT_LOG) if first else nullcontext() as log,
        tqdm(desc="layout", total=steps, unit="step", file=sys.stdout, mininterval=1, disable=not first) as bar,
    ):
        for step in range(1, steps + 1):
            if any_process(bool(interrupted), device):
                return
            epoch, batch, _ = next(batches)
            loss = layout_loss(objective, decoder, batch, epoch, device)
            optimiser.zero_grad()
            loss.backward()
            average_gradients(trained)
            if nn.utils.clip_grad_norm_(trained, CLIP).isfinite():
                optimiser.step()
            schedule.step()
            bar.update()
            if log is not None and (step % config.log_every == 0 or step == steps):
                log.write(json.dumps({"step": step, "steps": steps, "layout_loss": loss.item()}) + "\n")
                log.flush()


def new_log(path: Path) -> TextIO:
    """Return a new empty file in place of the one of an earlier attempt, so that its readers see another file."""
    part = path.with_suffix(".part")
    file = part.open("w")
    part.replace(path)
    return file


def layout_loss(objective: Objective, decoder: LayoutDecoder, batch: Batch, epoch: int, device: torch.device) -> Tensor:
    """Return the mean squared error of a batch's layouts; no caption is dropped."""
    generators = sample_generators(objective.config.seed, epoch, batch, device)
    dropped = torch.zeros(len(batch.latents), dtype=torch.bool, device=device)
    encodings, mask, base = objective.captions(batch, dropped, generators)
    layouts = layout_of(batch.latents.to(device, torch.float32))  # (b, c, h, w)
    error = layouts.new_zeros(())
    for rows, tokens in by_length(batch.mask):
        context = objective.adapter.context(
            encodings[rows, ..., :tokens, :], mask[rows, :tokens], None if base is None else base[rows]
        )  # (g, t, [k] d)
        error += F.mse_loss(decoder(context, layouts.shape[-2:]), layouts[rows], reduction="sum")
    return error / layouts.numel()


def layout_of(latents: Tensor) -> Tensor:
    """Return latents ``(batch, channel, height, width)`` averaged to the few places of a layout."""
    height, width = latents.shape[-2:]
    scale = min(1.0, LONGEST / max(height, width))
    return F.adaptive_avg_pool2d(latents, (max(1, round(height * scale)), max(1, round(width * scale))))


def average_gradients(parameters: list[nn.Parameter]) -> None:
    """Give every process the mean of all processes' gradients, in one exchange."""
    if (processes := dist.get_world_size()) == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    assert len(gradients) == len(parameters)
    together = nn.utils.parameters_to_vector(gradients)
    dist.all_reduce(together)
    nn.utils.vector_to_parameters(together / processes, gradients)


class LayoutDecoder(nn.Module):
    """Predicts a layout from a context: for each patch of places a query, which reads the context's tokens twice."""

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.width = width
        self.place = nn.Linear(width, width)
        self.context_norm = Float32LayerNorm(width)
        self.blocks = nn.ModuleList(RefinerBlock(width, WIDENING) for _ in range(BLOCKS))
        self.norm = Float32LayerNorm(width)
        self.out = nn.Linear(width, channels * PATCH**2)

    def forward(self, context: Tensor, size: torch.Size) -> Tensor:
        """Read a context ``(batch, token, [band *] width)``, whose padding is rows of zeros.

        Return a layout ``(batch, channel, height, width)`` of that size. Of several bands it reads the mean, with which
        gates begin.
        """
        tokens = self.context_norm(context.unflatten(-1, (-1, self.width)).mean(2))  # (b, t, d)
        patches = tuple(-(-side // PATCH) for side in size)
        places = get_2d_sincos_pos_embed(self.width, patches, output_type="pt", device=context.device)
        x = self.place(places.float()).expand(len(context), -1, -1)  # (b, patch, d)
        bias = padding_bias(context)  # (b, 1, t)
        for block in self.blocks:
            x = block(x, bias, tokens)
        found = self.out(self.norm(x)).transpose(1, 2).unflatten(-1, patches)  # (b, c p p, h / p, w / p)
        return F.pixel_shuffle(found, PATCH)[..., : size[0], : size[1]]
