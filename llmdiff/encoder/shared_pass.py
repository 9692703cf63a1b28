"""Several readings of one LLM in one forward pass, which is what encoding costs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from kernels.langevin import TokenRows
from llmdiff.encoder.batch_encoder import BatchEncoder
from llmdiff.encoder.encoder import Encoder, Progress, check_fit
from llmdiff.encoder.llm.decoder_llm import DecoderLLM, ScorePath
from llmdiff.encoder.llm.scores import BlockScore
from llmdiff.encoder.readings import Reading
from llmdiff.encoder.sums.running_sum import RunningSum
from llmdiff.encoder.tokens import BadCaption


def encode_readings(
    encoder: Encoder, readings: Sequence[str], captions: Sequence[str], progress: Progress | None = None
) -> dict[str, list[Tensor]]:
    """Return the encodings of the captions by each reading, all from one pass of the encoder's LLM.

    Each is what an encoder with that reading, and all other settings the same, makes of the captions. A pass costs as
    much as the dearest of them: a word path where any takes scores, else nothing beside the LLM.

    Args:
        encoder: whose LLM, tokenizer and settings are taken; its own reading does not matter.
        readings: values of `EncoderConfig.reading`.
        captions: any texts.
        progress: called with (captions done, captions in all) after each batch.

    Returns:
        by reading, float32 (token, hidden) a caption, on the CPU; (band, token, hidden) where it has bands.

    Raises:
        ValueError: a reading that there is none of, that the LLM lacks the layers for, or that does not go with the
            settings; or the isolated word path, whose passes are its own.
        BadCaption: a caption cannot be encoded, or holds NaN or infinity in some reading.
    """
    readings = list(dict.fromkeys(readings))
    shared = SharedPass([batch_encoder(encoder, reading) for reading in readings])
    bands = [part.config.bands for part in shared.parts]
    found: dict[str, list[Tensor]] = {reading: [] for reading in readings}
    for encoding in encoder.encode_by(shared, captions, progress):
        if isinstance(encoding, BadCaption):
            raise encoding
        for reading, count, part in zip(readings, bands, encoding.split(bands), strict=True):
            found[reading].append(part[0] if count == 1 else part)
    return found


def batch_encoder(encoder: Encoder, reading: str) -> BatchEncoder:
    """Return a batch encoder for another reading of an encoder's LLM; errors as of `encode_readings`."""
    own, other = Reading.parse(encoder.config.reading), Reading.parse(reading)
    if other.takes_scores and not own.takes_scores:
        DecoderLLM(encoder.llm.model)  # raises if its blocks give no scores
    bands = encoder.config.bands if own.takes_bands and other.takes_bands else 1
    config = dataclasses.replace(encoder.config, reading=reading, bands=bands)
    if config.word_path == "isolated":
        raise ValueError("word_path is 'isolated'; expected 'block', where several readings share a pass")
    check_fit(encoder.llm, encoder.tokenizer, config)
    return BatchEncoder(encoder.llm, config, encoder.g, encoder.h, cache_folder=None)


class SharedPass(BatchEncoder):
    """Encodes captions by several readings at once; their bands come side by side."""

    def __init__(self, parts: Sequence[BatchEncoder]) -> None:
        first = parts[0]
        super().__init__(first.llm, first.config, first.g, first.h, first.cache_folder)
        self.parts = parts

    @property
    def path(self) -> ScorePath:
        """Score differences where any reading takes them: blocks' outputs come with them."""
        return next((part.path for part in self.parts if part.reading.takes_scores), "output")

    def _start(self, rows: TokenRows) -> RunningSum:
        return SideBySide([part._start(rows) for part in self.parts])

    def _shape(self, c: Tensor) -> Tensor:
        """Return (token, band, hidden) as (band, token, hidden), for one band too."""
        return c.transpose(0, 1)


class SideBySide(RunningSum):
    """Several sums of the same rows in one tensor, which has the bands of all of them."""

    def __init__(self, parts: Sequence[RunningSum]) -> None:
        first = parts[0]
        places = list(accumulate((part.bands for part in parts), initial=0))
        super().__init__(first.rows, bands=places[-1], hidden=first.c.shape[-1], dtype=first.c.dtype)
        self.parts = parts
        for part, (start, stop) in zip(parts, pairwise(places), strict=True):
            part.c = self.c[:, start:stop]

    def start(self, x: Tensor) -> None:
        for part in self.parts:
            part.start(x)
        self._note_begun()

    def fold(self, score: BlockScore) -> None:
        for part in self.parts:
            part.fold(score)
        self._note_begun()

    def end(self, x: Tensor) -> None:
        for part in self.parts:
            part.end(x)
        self._note_begun()

    def finite(self) -> Tensor:
        return torch.stack([part.finite() for part in self.parts]).all(dim=0)

    def _note_begun(self) -> None:
        self.begun = [begun for part in self.parts for begun in part.begun]
