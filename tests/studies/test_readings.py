"""Hidden states behind the encoder's interface, against transformers' own."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from llmdiff.encoder import Encoder, EncoderConfig
from llmdiff.shapes import DIFFUSION
from llmdiff.studies.readings import STATES, HiddenStates, Reading
from tests.encoder import tiny_models

CAPTIONS = ["a red circle", "a small blue square to the left of the green triangle", "a red circle"]
TEMPLATE = {"template": "{caption} above the circle", "dtype": "float32"}


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    model = tiny_models.build("llama")
    return Encoder(model, tiny_models.tokenizer(), EncoderConfig(**TEMPLATE))


@pytest.mark.parametrize("states", list(STATES))
def test_each_caption_has_the_states_of_a_pass_of_its_own(encoder: Encoder, states: str) -> None:
    found = HiddenStates(encoder, states)(CAPTIONS)
    for caption, encoding in zip(CAPTIONS, found, strict=True):
        text = f"{caption} above the circle"
        ids = [*encoder.tokenizer(text)["input_ids"], encoder.tokenizer.eos_token_id]
        with torch.no_grad():
            all_states = encoder.llm.model(torch.tensor([ids]), output_hidden_states=True).hidden_states
        expected = {"last": all_states[3], "middle": all_states[2], "mean": torch.stack(all_states[1:]).mean(0)}
        torch.testing.assert_close(encoding, expected[states][0], rtol=1e-4, atol=1e-5)


def test_cut_captions_are_counted_and_progress_is_told() -> None:
    encoder = Encoder(
        tiny_models.build("llama"),
        tiny_models.tokenizer(),
        EncoderConfig(dtype="float32", max_tokens=4, token_budget=8),
    )
    seen: list[tuple[int, int]] = []
    hidden = HiddenStates(encoder, "last")
    assert [len(encoding) for encoding in hidden(CAPTIONS, lambda *done: seen.append(done))] == [4, 4, 4]
    assert hidden.truncated == 1
    assert seen[-1] == (3, 3)
    assert len(seen) > 1


def test_readings_of_one_llm_have_fingerprints_of_their_own(encoder: Encoder) -> None:
    described = [encoder.describe(), *(HiddenStates(encoder, states).describe() for states in STATES)]
    assert len({str(about) for about in described}) == 4
    assert all(about["kind"] == "hidden" for about in described[1:])
    assert described[1]["llm"] == described[0]["llm"]


def test_a_reading_loads_what_it_names() -> None:
    assert Reading(kind="base").load(str(DIFFUSION)).describe()["kind"] == "base"
    hidden = Reading(kind="hidden", states="mean").load(str(DIFFUSION))
    assert hidden.describe()["states"] == "mean"
    assert Reading(states="last").key != Reading(kind="hidden").key
    with pytest.raises(ValidationError, match="states"):
        Reading(states="first")
