"""This process's batches of a training, epoch after epoch."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from storage.reading.dataset import Batch, EncodingDataset


class RankBatch(NamedTuple):
    """This process's part of one step."""

    epoch: int
    batch: Batch
    samples: int
    """Number of samples in the step, over all processes."""


def endless(
    data: EncodingDataset, epoch: int = 0, position: int = 0, where: int | Sequence[int] = 0
) -> Generator[RankBatch]:
    """Yield this process's part of every step, without end.

    Args:
        data: this process's share of the samples.
        epoch: the first epoch.
        position: samples of it that all processes together have had.
        where: that position as `EncodingDataset.epoch` takes it: by shape of latents, where there are several.
    """
    while True:
        for batch in data.epoch(epoch, position=where):
            yield RankBatch(epoch, batch, batch.position - position)
            position = batch.position
        epoch, position, where = epoch + 1, 0, 0
