"""The LLMs of ``docs/how-to/recipes.md``, with what was measured of them."""

from __future__ import annotations

from dataclasses import dataclass

from common.gpu_figures import gpu_row
from common.measured import measured


@dataclass(frozen=True, kw_only=True)
class LLM:
    """An LLM of the recipes, with the figures in which they differ."""

    name: str
    width: int
    tokens: int
    """Tokens of a caption, EOS included: mean of PartiPrompts and DPG-Bench, see ``docs/how-to/recipes.md``."""
    tflop: float
    """TFLOP of a token in one plain forward pass."""
    ratio: float
    """Ratio of encoding over a plain forward pass."""


def llms() -> list[LLM]:
    """Return the LLMs of the recipes."""
    of_pass = {"what": "LLM, one plain forward pass"}
    score = {"word_path": "block", "reading": "score"}
    phi = measured("encode.csv", "ratio_p50", shape="phi-1.5", dtype="bfloat16", **score)
    on_gpu = gpu_row("encode.csv", shape="vicuna-7b", **score)
    vicuna = measured("encode.csv", "ratio_p50", shape="vicuna-7b", blocks="2 of 32", **score)
    vicuna = vicuna if on_gpu is None else float(on_gpu["ratio_p50"])
    return [
        LLM(
            name="Phi-1.5",
            width=2048,
            tokens=40,
            tflop=measured("train.csv", "value", setting="Phi-1.5, all blocks", **of_pass),
            ratio=phi,
        ),
        LLM(
            name="Vicuna-7B",
            width=4096,
            tokens=49,
            tflop=measured("train.csv", "value", setting="Vicuna-7B, all blocks", **of_pass),
            ratio=vicuna,
        ),
    ]
