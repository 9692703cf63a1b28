"""The embedded models: how large they are, what their cards say, and that the LLMs carry who is what and where."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from llmdiff.encoder import Encoder, EncoderConfig
from llmdiff.shapes import LLAMA, PHI, WEIGHTS
from llmdiff.shapes.captions import PROMPT, answers, caption
from llmdiff.shapes.scene import COLOURS, SHAPES, Scene, sample_scene


def parameters(folder: Path) -> int:
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        return sum(int(np.prod(file.get_slice(name).get_shape())) for name in file.keys())  # noqa: SIM118


def test_all_weights_fit_into_twenty_megabytes() -> None:
    assert sum(file.stat().st_size for file in WEIGHTS.rglob("*.safetensors")) <= 20_000_000
    assert all(1_000_000 <= parameters(folder) <= 5_000_000 for folder in (LLAMA, PHI))


def test_every_model_has_a_card() -> None:
    for file in WEIGHTS.rglob("*.safetensors"):
        card = json.loads((file.parent / "card.json").read_text())
        assert {"data", "command", "seed", "figures"} <= set(card), file
        assert card["command"].startswith("python -m llmdiff.shapes.pretrain ")
        assert card["figures"]["steps"] > 0


@pytest.mark.parametrize("folder", [LLAMA, PHI], ids=["llama", "phi"])
def test_encodings_carry_who_is_what_and_where(folder: Path) -> None:
    """A linear probe learned on natural wordings reads held-out pairs in wordings that it was not learned on."""
    rng = np.random.default_rng(0)
    encoder = Encoder.from_pretrained(folder, EncoderConfig(template=PROMPT, dtype="float32"), device="cpu")
    known = [sample_scene(rng, 2) for _ in range(300)]
    new = [sample_scene(rng, 2, held_out=True) for _ in range(100)]
    seen = encoder([caption(scene, "natural", rng) for scene in known])
    unseen = encoder([caption(scene, "unseen_wording", rng) for scene in new])
    for question, token in ((0, -4), (1, -3)):
        x, y = (torch.stack([encoding[token] for encoding in some]) for some in (seen, unseen))
        for word, values in ((2, COLOURS), (3, SHAPES)):
            told, expected = (facts(scenes, question, word, values) for scenes in (known, new))
            probe = fit(x, torch.nn.functional.one_hot(told).float())
            assert (probe(y).argmax(1) == expected).float().mean() > 0.95, (question, values)


def facts(scenes: list[Scene], question: int, word: int, values: tuple[str, ...]) -> torch.Tensor:
    return torch.tensor([values.index(answers(scene)[question].split()[word]) for scene in scenes])


def fit(x: torch.Tensor, y: torch.Tensor):
    """Ridge regression on standardised features, as a function of such features."""
    mean, scale = x.mean(0), x.std(0) + 1e-6

    def features(x: torch.Tensor) -> torch.Tensor:
        return torch.cat([(x - mean) / scale, torch.ones(len(x), 1)], 1)

    a = features(x)
    weights = torch.linalg.solve(a.T @ a + 10.0 * torch.eye(a.shape[1]), a.T @ y)
    return lambda x: features(x) @ weights
