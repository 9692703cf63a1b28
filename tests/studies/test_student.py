"""A student of a closed LLM: what it sees, that it learns, that it comes back from its folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from llmdiff.encoder import Encoder, EncoderConfig
from llmdiff.studies import student as student_module
from llmdiff.studies.student import (
    CHANNELS,
    SHOW,
    TOP,
    StudentConfig,
    StudentEncoder,
    agreement,
    batched,
    look,
    train_student,
)
from tests.encoder import tiny_models
from tests.examples import some

WORDS = ["red", "green", "blue", "small", "large", "circle", "square", "triangle"]
CAPTIONS = [f"a {one} {two} next to the {three}" for one in WORDS for two in WORDS for three in WORDS[5:]]


@pytest.fixture(scope="module")
def teacher() -> Encoder:
    torch.manual_seed(0)
    return Encoder(tiny_models.build("llama"), tiny_models.tokenizer(), EncoderConfig(dtype="float32"))


def test_log_probabilities_are_the_models_own(teacher: Encoder) -> None:
    (seen,) = look(teacher, ["a red circle"], "logprobs")
    with torch.no_grad():
        expected = teacher.llm.model(seen.ids[None]).logits[0].log_softmax(-1)
    torch.testing.assert_close(seen.shown, expected, rtol=1e-4, atol=1e-5)
    (top,) = look(teacher, ["a red circle"], "top")
    least = expected.topk(TOP).values[:, -1:]
    torch.testing.assert_close(top.shown, expected.maximum(least), rtol=1e-4, atol=1e-5)
    (embedding,) = look(teacher, ["a red circle"], "embedding")
    assert torch.equal(embedding.shown[0], embedding.shown[-1])
    (alone,) = look(teacher, ["a red circle"], "tokens")
    assert alone.shown.shape == (4, 0)


def test_a_caption_looks_the_same_in_any_company(teacher: Encoder) -> None:
    for shown in SHOW:
        alone = look(teacher, ["a red circle"], shown)[0].shown
        among = look(teacher, [*CAPTIONS[:70], "a red circle"], shown)[-1].shown
        torch.testing.assert_close(alone, among, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shown", some(["tokens", "logprobs"]))
def test_it_learns_from_the_stored_encodings_and_comes_back_from_its_folder(
    teacher: Encoder, shown: str, tmp_path: Path
) -> None:
    train, held_out = CAPTIONS[::2], CAPTIONS[1::2]
    stored = [encoding.bfloat16() for encoding in teacher(train)]
    config = StudentConfig(shown=shown, steps=60, width=48)
    steps: list[int] = []
    student = train_student(config, teacher, train, stored, tmp_path, steps.append)
    assert sum(steps) == 60
    untrained = train_student(config.model_copy(update={"steps": 1}), teacher, train, stored, tmp_path / "untrained")
    found = agreement(student, teacher, held_out)
    assert found["r2"] > max(0.5, agreement(untrained, teacher, held_out)["r2"] + 0.3)
    assert 0.5 < found["cosine"] <= 1
    again = StudentEncoder.load(tmp_path, teacher)
    for one, other in zip(student(held_out[:3]), again(held_out[:3]), strict=True):
        assert torch.equal(one, other)
    assert again.describe() == teacher.describe()
    assert again.hidden_size == 48


def test_padding_does_not_reach_a_caption(teacher: Encoder, tmp_path: Path) -> None:
    stored = teacher(CAPTIONS[:8])
    student = train_student(StudentConfig(shown="top", steps=10, width=16), teacher, CAPTIONS[:8], stored, tmp_path)
    (alone,) = student(["a red circle"])
    among = student(["a red circle", "a small red circle next to the large blue square"])[0]
    torch.testing.assert_close(alone, among, rtol=1e-4, atol=1e-5)
    ids, shown, mask = batched(look(teacher, CAPTIONS[:2], "top"))
    assert ids.shape == mask.shape == shown.shape[:2]


def test_encodings_of_other_captions_are_refused(teacher: Encoder, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected an encoding of 4 tokens, found"):
        train_student(StudentConfig(shown="tokens"), teacher, ["a red circle"], teacher(["a red"]), tmp_path)


def test_log_probabilities_of_a_large_vocabulary_are_narrowed_and_keep_what_they_say(
    teacher: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = look(teacher, CAPTIONS[:20], "logprobs")
    monkeypatch.setattr(student_module, "LARGE", 8)
    for shown in ("logprobs", "top"):
        narrow = look(teacher, CAPTIONS[:20], shown)
        assert narrow[0].shown.shape == (len(narrow[0].ids), CHANNELS)
        assert torch.equal(narrow[3].shown, look(teacher, CAPTIONS[:20], shown)[3].shown)
    centred = [one.shown - one.shown.mean(1, keepdim=True) for one in whole]
    narrow = look(teacher, CAPTIONS[:20], "logprobs")
    distances = torch.pdist(torch.cat(centred)), torch.pdist(torch.cat([one.shown for one in narrow]))
    apart = distances[0] > 1e-3
    torch.testing.assert_close(
        distances[1][apart] / distances[0][apart], torch.ones(int(apart.sum())), rtol=0.2, atol=0
    )
