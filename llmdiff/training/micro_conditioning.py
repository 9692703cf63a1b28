"""What SDXL's U-Net reads beside its context: a caption's pooled embedding, a picture's size and crop.

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

    def __init__(self, unconditional: Tensor, side: int, latent_side: int) -> None:
        """Take the side of pictures and of their latents; `unconditional` ``(hidden,)`` is of the empty caption."""
        self.unconditional = unconditional
        self.side = side
        self.factor = side // latent_side

    def of_batch(self, batch: Batch, dropped: Tensor) -> dict[str, Tensor]:
        """Return a batch's own, with the empty caption's pooled embedding in place of the `dropped` ``(batch,)`` ones.

        ``text_embeds`` ``(batch, hidden)`` and ``time_ids`` ``(batch, 6)``, float32: in 16 bits, sizes get rounded.
        """
        assert batch.pooled is not None
        assert batch.crops is not None
        device = dropped.device
        pooled = torch.where(dropped[:, None], self.unconditional.to(device), batch.pooled.to(device))
        return conditions(pooled, batch.crops.to(device), self.side)

    def of_prompts(self, pooled: Sequence[Tensor], latent_side: int, device: torch.device) -> dict[str, Tensor]:
        """Return the empty caption's for every prompt, then the prompts' own, for whole pictures ``(2 prompts, …)``."""
        rows = torch.stack([self.unconditional] * len(pooled) + list(pooled)).to(device)
        side = self.factor * latent_side
        return conditions(rows, torch.tensor([side, side, 0, 0], device=device).expand(len(rows), 4), side)


def conditions(pooled: Tensor, crops: Tensor, side: int) -> dict[str, Tensor]:
    """From pooled embeddings ``(batch, hidden)`` and crops ``(batch, 4)``: width, height, left, top."""
    width, height, left, top = crops.float().unbind(1)
    target = torch.full_like(width, side)
    return {
        "text_embeds": pooled.float(),
        "time_ids": torch.stack([height, width, top, left, target, target], dim=1),
    }


def picture_side(store: EncodingStore) -> int:
    """Of the pictures behind a store's latents, in pixels."""
    sides = {about["size"] for about in store.fingerprints().values() if about.get("kind") == "vae"}
    if len(sides) != 1:
        raise ValueError(f"{store.path}: expected latents of one autoencoder and size, found sizes {sorted(sides)}")
    return int(sides.pop())


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
