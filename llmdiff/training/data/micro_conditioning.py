"""SDXL's conditions beside the context: a caption's pooled embedding, a picture's size and crop.

Source: SDXL, arXiv 2307.01952, section 2.2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from llmdiff.diffusion.base import is_xl, pooled_width
from llmdiff.training.config import TrainConfig

if TYPE_CHECKING:
    from storage import EncodingStore
    from storage.reading.dataset import Batch


class MicroConditioning:
    """Makes the ``added_cond_kwargs`` of a `UNet2DConditionModel`; sizes are in pixels."""

    def __init__(self, unconditional: Tensor, factor: int) -> None:
        """Take the empty caption's pooled embedding ``(hidden,)``, and the pixels of a latent's side."""
        self.unconditional = unconditional
        self.factor = factor

    def of_batch(self, batch: Batch, dropped: Tensor) -> dict[str, Tensor]:
        """Return a batch's conditions, with the empty caption's embedding in place of the `dropped` ``(batch,)`` ones.

        ``text_embeds`` ``(batch, hidden)`` and ``time_ids`` ``(batch, 6)``, float32: in 16 bits, sizes get rounded.
        """
        assert batch.pooled is not None
        assert batch.crops is not None
        device = dropped.device
        pooled = torch.where(dropped[:, None], self.unconditional.to(device), batch.pooled.to(device))
        height, width = (self.factor * side for side in batch.latents.shape[-2:])
        return conditions(pooled, batch.crops.to(device), height, width)

    def of_prompts(self, pooled: Sequence[Tensor], latent_side: int, device: torch.device) -> dict[str, Tensor]:
        """Return, for whole pictures, conditions of the empty caption, then of each prompt: ``(2 prompts, …)``."""
        rows = torch.stack([self.unconditional] * len(pooled) + list(pooled)).to(device)
        side = self.factor * latent_side
        return conditions(rows, torch.tensor([side, side, 0, 0], device=device).expand(len(rows), 4), side, side)


def conditions(pooled: Tensor, crops: Tensor, of_height: int, of_width: int) -> dict[str, Tensor]:
    """Return conditions from pooled embeddings ``(batch, hidden)``, crops and the kept height and width.

    `crops` ``(batch, 4)`` are the picture's width and height, and the left and top of its kept part.
    """
    width, height, left, top = crops.float().unbind(1)
    target = torch.full_like(height, of_height), torch.full_like(width, of_width)
    return {
        "text_embeds": pooled.float(),
        "time_ids": torch.stack([height, width, top, left, *target], dim=1),
    }


def pixels_to_a_latent(store: EncodingStore, shapes: Sequence[str]) -> int:
    """Return the autoencoder's factor as the store notes it or, for squares alone, as their side gives it."""
    kinds = [about for about in store.fingerprints().values() if about.get("kind") == "vae"]
    found = {about.get("factor") or about["size"] // int(shapes[0].rpartition("x")[2]) for about in kinds}
    if len(found) != 1:
        raise ValueError(f"{store.path}: expected latents of one autoencoder and size, found {len(kinds)} kinds")
    return int(found.pop())


def check_conditions(config: TrainConfig, unet: Mapping[str, Any], base: Tensor | None, pooled: Tensor | None) -> None:
    """Raise ValueError where the store's features of the empty caption are not what the base's U-Net reads.

    `base` ``(token, hidden)`` and `pooled` ``(1, hidden)`` are None where there is no such fingerprint.
    """
    if is_xl(unet) != (pooled is not None):
        expected, found = ("a", "none") if is_xl(unet) else ("no", config.pooled_fingerprint)
        what = "SDXL's U-Net reads pooled embeddings, and no other does"
        raise ValueError(f"{config.base}: expected {expected} pooled_fingerprint, found {found}: {what}")
    if base is not None:
        check_width(config, "text features", config.base_fingerprint, base, unet.get("cross_attention_dim", 1280))
    if pooled is not None:
        check_width(config, "pooled embeddings", config.pooled_fingerprint, pooled, pooled_width(unet))


def check_width(config: TrainConfig, what: str, fingerprint: str | None, found: Tensor, width: int | list[int]) -> None:
    """Raise ValueError where features ``(token, hidden)`` of the store are of another width than the U-Net's."""
    if found.shape[-1] not in (width if isinstance(width, list) else [width]):
        raise ValueError(
            f"{config.store}: {what} {fingerprint}: expected width {width}, which {config.base} reads, found "
            f"{found.shape[-1]}: encode again with --diffusion of this base"
        )
