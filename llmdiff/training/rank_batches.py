"""The batches of a training, epoch after epoch."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from storage.reading.dataset import Batch, EncodingDataset


class RankBatch(NamedTuple):
    """What this process does of one step."""

    epoch: int
    batch: Batch
    samples: int
    """Number of samples in the step, over all processes."""


def endless(
    data: EncodingDataset, epoch: int = 0, position: int = 0, where: int | Sequence[int] = 0
) -> Generator[RankBatch]:
    """Yield this process's part of every step, for ever.

    Args:
        data: this process's share of the samples.
        epoch: the first one.
        position: samples of it that all processes have had, together.
        where: the same as `EncodingDataset.epoch` takes it, by shapes of latents where there are several.
    """
    while True:
        for batch in data.epoch(epoch, position=where):
            yield RankBatch(epoch, batch, batch.position - position)
            position = batch.position
        epoch, position, where = epoch + 1, 0, 0
