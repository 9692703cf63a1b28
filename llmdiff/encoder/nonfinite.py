"""Find the caption, block and channel of an encoding that is not finite."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from llmdiff.encoder.llm.decoder_llm import DecoderLLM, ScorePath
from llmdiff.encoder.llm.scores import BlockScore
from llmdiff.encoder.sums.running_sum import RunningSum
from llmdiff.encoder.tokens import BadCaption


class NonFinite(BadCaption):
    """A caption whose encoding holds NaN or infinity.

    Attributes:
        caption: the text.
        block: the first block, from 0 at the embedding side, whose output or score is not finite; -1: the embedding.
        channel: the first such channel.
        token: the first such token.
    """

    def __init__(self, caption: str, block: int, token: int, channel: int) -> None:
        self.caption, self.block, self.token, self.channel = caption, block, token, channel
        where = "the embedding" if block < 0 else f"block {block}"
        super().__init__(
            "not_finite", f"caption {caption!r}: non-finite values in {where}, token {token}, channel {channel}"
        )

    def __reduce__(self) -> tuple[type[NonFinite], tuple[Any, ...]]:
        return NonFinite, (self.caption, self.block, self.token, self.channel)


def locate(llm: DecoderLLM, path: ScorePath, total: RunningSum, caption: str, ids: list[int]) -> NonFinite:
    """Run the caption alone and find where it first stops being finite; only a caption that failed pays for it.

    Args:
        llm: the LLM that encoded the caption.
        path: what the sum takes of each block.
        total: a sum that has not begun, of this caption alone.
        caption: the text.
        ids: its tokens.
    """
    found: list[tuple[int, int, int]] = []

    def note(block: int, *tensors: Tensor) -> None:
        for tensor in tensors:
            bad = (~torch.isfinite(tensor)).nonzero()
            if len(bad) and not found:
                found.append((block, int(bad[0, 0]), int(bad[0, -1])))

    def start(x: Tensor) -> None:
        total.start(x)
        note(-1, x[0])

    def fold(score: BlockScore) -> None:
        total.fold(score)
        note(score.index, score.output[0], *bands())

    def bands() -> list[Tensor]:
        return [total.c[:, band] for band in range(total.bands) if total.begun[band]]

    row = torch.tensor([ids], device=llm.device)
    total.end(llm.stream(row, path, fold, start))
    note(llm.blocks - 1, *bands())  # the final norm's output counts as the last block's
    if not found:  # the isolated path: a token alone, not the sentence
        llm.stream(row.T, path, lambda score: note(score.index, score.output[:, 0]))
    block, token, channel = found[0] if found else (llm.blocks - 1, 0, 0)
    return NonFinite(caption, block, token, channel)
