"""What is read of SmolLM2-135M-Instruct, against brute force, and how exact each dtype is."""

from __future__ import annotations

import re
from pathlib import Path

import torch
import transformers
from torch import Tensor

from llmdiff.encoder import Encoder, EncoderConfig
from llmdiff.encoder.shared_pass import encode_readings
from tests.encoder.test_readings import CASES, HIDDEN, Truth, relative

METHOD = Path(__file__).parents[2] / "docs/explanation/method.md"


def test_every_reading_matches_brute_force(smollm2: Path) -> None:
    """SmolLM2's first 13 blocks as trained: from the 12th on, channels differ in size by tens of thousands."""
    model = transformers.AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float64, num_hidden_layers=13)
    words = transformers.AutoTokenizer.from_pretrained(smollm2)
    captions = ["a red circle", "two dogs"]
    truths = [Truth.of(model, words, caption) for caption in captions]

    def check(encoder: Encoder, encodings: list[Tensor]) -> None:
        for encoding, truth in zip(encodings, truths, strict=True):
            for row, exact in zip(encoding.flatten(0, -2), truth.read(encoder).flatten(0, -2), strict=True):
                assert relative(row, exact) < 1e-9 or not exact.any(), encoder.config

    for settings in [{}, *CASES[2:3], *CASES[-2:]]:
        encoder = Encoder(model, words, EncoderConfig(**settings))
        check(encoder, encoder(captions))
    readings = ["score_norm", *HIDDEN, "layer:9", "layers:5,9,13"]
    for reading, encodings in encode_readings(Encoder(model, words), readings, captions).items():
        check(Encoder(model, words, EncoderConfig(reading=reading)), encodings)


def test_each_dtype_is_as_exact_as_the_docs_say(smollm2: Path) -> None:
    """All 30 blocks, held against float64: no token is off by more than the most there, nor all by twice the mean."""
    rows = re.findall(r"\| `([\w:-]+)`.* \| (\S+), (\S+e-6) \| (\S+), (0\.\d+) \|", METHOD.read_text())
    bounds = {row[0]: {"float32": row[1:3], "bfloat16": row[3:]} for row in rows}
    words = transformers.AutoTokenizer.from_pretrained(smollm2)

    def encode(dtype: str) -> dict[str, Tensor]:
        model = transformers.AutoModelForCausalLM.from_pretrained(smollm2, dtype=getattr(torch, dtype))
        found = encode_readings(Encoder(model, words), list(bounds), ["an oil painting of a ship at sea"])
        return {reading: encoding.double() for reading, (encoding,) in found.items()}

    exact = encode("float64")
    assert len(exact) == 7
    for dtype in ("float32", "bfloat16"):
        for reading, encoding in encode(dtype).items():
            mean, most = map(float, bounds[reading][dtype])
            distance = (encoding - exact[reading]).norm(dim=-1) / exact[reading].norm(dim=-1)
            assert distance.max() <= most, (reading, dtype)
            assert 0 < distance.mean() <= 2 * mean, (reading, dtype)
