"""Compare several kinds of encodings: by a quick probe of each, and a slower second probe of the best ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from llmdiff.encoder.encoder import Encoder
from llmdiff.encoder.readings import Reading
from llmdiff.encoder.shared_pass import encode_readings
from llmdiff.encoder.text_encoder import TextEncoder
from llmdiff.probe.captions import ProbeCaptions
from llmdiff.probe.fit import Figures, ProbeConfig, prepare_probe

BASE = "base"
"""Name, in place of a reading's, of a diffusion model's own text encoder."""
REFINER = 2
"""Blocks of the refiner in the second probe: as many as an adapter's has at most."""
CLEARLY = 0.1
"""Shares of 200 captions that are this far apart are hardly so by chance."""
CHUNK = 256
"""Captions that are encoded before their encodings are rounded."""

Progress = Callable[[int], None]
"""Function that is called with how much is done so far."""
Key = TypeVar("Key")


@dataclass(frozen=True)
class ProbeResult:
    """Figures of one kind of encodings."""

    reading: str
    """A value of `EncoderConfig.reading`, or `BASE`."""
    template: str
    """The template that captions were read in; empty for `BASE`."""
    on_top: Figures
    """Figures of each token by itself: what an adapter finds in few steps."""
    in_reach: Figures | None = None
    """Figures of the tokens together: what an adapter with a refiner finds. None without a second probe."""


class Probing:
    """Probes of several kinds of encodings, of the same captions, so that their figures compare.

    Args:
        config: how large each probe is.
        reach: number of the kinds, those best on top, that get the second probe; their encodings are kept until
            `finish`.
    """

    def __init__(self, config: ProbeConfig, reach: int) -> None:
        self.config, self.reach = config, reach
        self.captions = ProbeCaptions.draw(config.captions, config.tests, config.seed)
        self.rows: dict[tuple[str, str], ProbeResult] = {}
        self.kept: dict[tuple[str, str], list[Tensor]] = {}

    def add(self, template: str, encodings: Mapping[str, list[Tensor]], progress: Progress | None = None) -> None:
        """Probe encodings of `ProbeCaptions.all` by their readings, all of one template."""
        for reading, on_top in run_probes(encodings, self.captions, 0, self.config, progress).items():
            self.rows[reading, template] = ProbeResult(reading, template, on_top)
            self.kept[reading, template] = encodings[reading]
        best = sorted(self.kept, key=lambda key: -self.rows[key].on_top.mean)
        self.kept = {key: self.kept[key] for key in best[: self.reach]}

    def finish(self, progress: Progress | None = None) -> list[ProbeResult]:
        """Give the best kinds their second probe, and return all results in the order of their `add`."""
        found = run_probes(self.kept, self.captions, REFINER, self.config, progress)
        self.rows |= {key: replace(self.rows[key], in_reach=figures) for key, figures in found.items()}
        self.kept = {}
        return list(self.rows.values())


class Recommendation(NamedTuple):
    """The kind of encodings to use, and whether to train an adapter with a refiner on them."""

    row: ProbeResult
    refiner: bool

    @property
    def figures(self) -> Figures:
        """Figures by which the kind was chosen."""
        found = self.row.in_reach if self.refiner else self.row.on_top
        assert found is not None
        return found


def recommend(rows: Sequence[ProbeResult]) -> Recommendation:
    """Return the result with the highest mean of the four figures, with a refiner only where that is clearly higher."""
    found = [Recommendation(row, False) for row in rows]
    refined = [Recommendation(row, True) for row in rows if row.in_reach is not None]
    without = max(found, key=lambda one: one.figures.mean)
    best = max([without, *refined], key=lambda one: one.figures.mean)
    return best if best.figures.mean > without.figures.mean + CLEARLY else without


def as_good(rows: Sequence[ProbeResult], best: Recommendation) -> list[ProbeResult]:
    """Return the other rows whose figures of the same probe are not clearly lower than the recommended ones."""
    found = [(row, row.in_reach if best.refiner else row.on_top) for row in rows if row is not best.row]
    return [row for row, figures in found if figures is not None and figures.mean >= best.figures.mean - CLEARLY]


def default_readings(blocks: int) -> list[str]:
    """Return the readings that a probe compares where none are named, each layer of an LLM of so many blocks once."""
    layers = (-2, blocks // 2, 2 * blocks // 3)
    names = ["score", "score_norm", "norm_mean", "mean", "last", *(f"layer:{layer}" for layer in layers)]
    return list({Reading.parse(name).of(blocks): name for name in names}.values())


def encode_by_readings(
    encoder: Encoder, readings: Sequence[str], captions: Sequence[str], progress: Progress | None = None
) -> dict[str, list[Tensor]]:
    """Return encodings by each reading from one pass of the LLM, bfloat16 as a store holds them."""
    found: dict[str, list[Tensor]] = {reading: [] for reading in readings}
    for start in range(0, len(captions), CHUNK):
        for reading, encodings in encode_readings(encoder, readings, captions[start : start + CHUNK]).items():
            found[reading] += [encoding.bfloat16() for encoding in encodings]
        if progress is not None:
            progress(min(start + CHUNK, len(captions)))
    return found


def encode_by(encoder: TextEncoder, captions: Sequence[str], progress: Progress | None = None) -> list[Tensor]:
    """Return encodings by any encoder, bfloat16 as a store holds them."""
    found: list[Tensor] = []
    for start in range(0, len(captions), CHUNK):
        found += [encoding.bfloat16() for encoding in encoder(captions[start : start + CHUNK])]
        if progress is not None:
            progress(len(found))
    return found


def run_probes(
    encodings: Mapping[Key, Sequence[Tensor]],
    captions: ProbeCaptions,
    refiner: int,
    config: ProbeConfig,
    progress: Progress | None = None,
) -> dict[Key, Figures]:
    """Train and ask a probe of each kind of encodings, each in one thread: its tensors are too small for several.

    The figures do not depend on how many run at once.
    """
    threads = torch.get_num_threads()
    found: dict[Key, Figures] = {}
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads) as pool:
            waiting = {pool.submit(prepare_probe(of, captions, refiner, config)): key for key, of in encodings.items()}
            for done in as_completed(waiting):
                found[waiting[done]] = done.result()
                if progress is not None:
                    progress(len(found))
    finally:
        torch.set_num_threads(threads)
    return {key: found[key] for key in encodings}
