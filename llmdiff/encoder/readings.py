"""The readings of an LLM: which scores or hidden states of its blocks become the encoding. Needs no torch."""

from __future__ import annotations

import re
from dataclasses import dataclass

EXPECTED = "score, score_norm, last, layer:K, layers:A,B,C, mean or norm_mean, with whole numbers for the letters"
LAYERS = re.compile(r"layer:(-?\d+)|layers:(-?\d+(?:,-?\d+)*)")


@dataclass(frozen=True)
class Reading:
    """A value of `EncoderConfig.reading`.

    Hidden states are numbered as transformers numbers them: 0 is the embedding, k the output of block k = 1 .. T, and
    -1 is T. Only T is another one here: what the last block puts out; with the LLM's final norm it is called `last`.
    """

    kind: str
    """`score`, `score_norm`, `last`, `mean`, `norm_mean`; `layers` for chosen hidden states."""
    layers: tuple[int, ...] = ()
    """The chosen hidden states, a band each."""

    @classmethod
    def parse(cls, text: str) -> Reading:
        """Return the reading of that name; ValueError where there is none."""
        if text in ("score", "score_norm", "last", "mean", "norm_mean"):
            return cls(text)
        found = LAYERS.fullmatch(text) if isinstance(text, str) else None
        if found is None:
            raise ValueError(f"reading must be {EXPECTED}; got {text!r}")
        return cls("layers", tuple(int(layer) for layer in (found[1] or found[2]).split(",")))

    def __str__(self) -> str:
        if self.kind != "layers":
            return self.kind
        return f"layer{'s' * (len(self.layers) > 1)}:{','.join(map(str, self.layers))}"

    @property
    def takes_scores(self) -> bool:
        """Whether the encoding sums scores, and not hidden states."""
        return self.kind in ("score", "score_norm")

    @property
    def takes_bands(self) -> bool:
        """Whether the reading covers all blocks, so that depth bands may be kept apart."""
        return self.kind not in ("last", "layers")

    def of(self, blocks: int) -> Reading:
        """Return the reading of an LLM with so many blocks, its layers counted from the embedding.

        ValueError for a layer that the LLM does not have, or one that is chosen twice.
        """
        layers = tuple(layer + blocks + 1 if layer < 0 else layer for layer in self.layers)
        if not all(0 <= layer <= blocks for layer in layers):
            raise ValueError(f"reading is {self}; expected layers from 0 to {blocks}, the LLM's blocks, or -1 and down")
        if len(set(layers)) < len(layers):
            raise ValueError(f"reading is {self}; expected each layer once, of {blocks} blocks")
        return Reading(self.kind, layers)

    def states(self, blocks: int, bands: int) -> dict[int, tuple[int, float]]:
        """Return the band and the weight of each hidden state that is summed; `blocks` + 1 is the final norm's output.

        A mean is over the blocks of its band; the embedding is in none.
        """
        if self.kind == "last":
            return {blocks + 1: (0, 1.0)}
        if self.kind == "layers":
            return {layer: (band, 1.0) for band, layer in enumerate(self.of(blocks).layers)}
        of_block = [band_of(index, blocks, bands) for index in range(blocks)]
        return {index + 1: (band, 1.0 / of_block.count(band)) for index, band in enumerate(of_block)}


def band_of(index: int, blocks: int, bands: int) -> int:
    """Return the depth band of a block: equal shares, from the embedding up."""
    return index * bands // blocks
