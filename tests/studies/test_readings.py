"""What a study's reading loads."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from llmdiff.encoder import Encoder
from llmdiff.encoder.batch_encoder import pad
from llmdiff.encoder.tokens import padding_id, tokenise
from llmdiff.shapes import DIFFUSION
from llmdiff.studies.readings import StudyReading, hidden_states
from pipelines.studies.encodings import readings
from pipelines.studies.llm import EMBEDDED

CAPTIONS = ["a red circle", "a small blue square to the left of the green triangle"]


def test_a_reading_loads_what_it_names() -> None:
    assert StudyReading(kind="base").load(str(DIFFUSION)).describe()["kind"] == "base"
    mean = StudyReading(settings={"reading": "mean"})
    assert mean.load(str(DIFFUSION)).describe()["reading"] == "mean"
    assert mean.key != StudyReading(settings={"reading": "last"}).key
    with pytest.raises(ValidationError, match="states"):
        StudyReading(states="first")


def test_the_hidden_states_of_the_study_are_those_of_passes_that_keep_all() -> None:
    """They are compared in float32 on the embedded LLM: the last after the final norm, block 3 of 5, the mean."""
    for reading in readings(EMBEDDED).values():
        encoder = EMBEDDED.reading(reading=reading, dtype="float32").load(str(DIFFUSION))
        assert isinstance(encoder, Encoder)
        tokens = tokenise(encoder.tokenizer, CAPTIONS, encoder.config, encoder.llm.vocabulary)
        ids = pad([token.ids for token in tokens], padding_id(encoder.tokenizer))
        ends: list[torch.Tensor] = []
        handle = encoder.llm.layers[-1].register_forward_hook(lambda *call, ends=ends: ends.append(call[-1]))
        states = hidden_states(encoder, ids)
        handle.remove()
        expected = {
            "last": states[-1],
            "layer:3": states[3],
            "mean": torch.stack([*states[1:-1], ends[0]]).mean(0),
        }[reading]
        for encoding, row in zip(encoder(CAPTIONS), expected, strict=True):
            torch.testing.assert_close(encoding, row[: len(encoding)], rtol=1e-4, atol=1e-4)
