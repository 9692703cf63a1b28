"""How a caption becomes tokens: templates, cuts, EOS, padding, and captions that have no tokens."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch

from llmdiff.encoder import Encoder, EncoderConfig
from llmdiff.encoder.tokens import BadCaption, tokenise, try_tokenise
from tests.encoder.tiny_encoder import CAPTIONS, Slow, byte_level_bpe, ending_itself, make
from tests.encoder.tiny_models import build, tokenizer


def test_the_empty_caption_is_eos_alone_and_needs_it() -> None:
    encoder = make()
    embedding = encoder.llm.backbone.get_input_embeddings().weight[1]
    assert torch.equal(encoder([""])[0][0], embedding)
    with pytest.raises(ValueError, match="has no token; expected text, or append_eos=True"):
        make(append_eos=False)([""])


def test_long_captions_are_cut_counted_and_reported(caplog) -> None:
    encoder = make(max_tokens=5)
    with caplog.at_level(logging.WARNING):
        encodings = encoder([*CAPTIONS, CAPTIONS[0]])
    assert [len(encoding) for encoding in encodings] == [5, 2, 5, 5]
    assert encoder.truncated == 3
    assert "3 captions were cut to 5 tokens" in caplog.text
    cut = make()(["a red circle next"])[0]
    torch.testing.assert_close(encodings[0], cut)


def test_the_template_goes_round_the_caption() -> None:
    plain = make()(["a red {circle}"])[0]
    wrapped = make(template="the {caption} below")(["a red {circle}"])[0]
    assert len(wrapped) == len(plain) + 2


def test_what_the_template_puts_after_a_caption_is_never_cut() -> None:
    encoder = make(template="{caption} next to the", max_tokens=7)
    encodings = encoder(["a red circle", "a red circle left of a blue square"])
    assert [len(encoding) for encoding in encodings] == [7, 7]
    assert encoder.truncated == 1
    torch.testing.assert_close(encodings[0], encodings[1])
    with pytest.raises(ValueError, match="max_tokens is 4; expected more than the template's 3"):
        make(template="{caption} next to the", max_tokens=4)(["a"])


@pytest.mark.parametrize(
    "after", [" as a picture.", ", as a picture", "s below", "uares, (the blue one)", "one below", "\u00e9 below"]
)
def test_bytes_that_the_template_puts_after_a_caption_are_never_cut(after: str) -> None:
    """Alone they may fall into other tokens, fewer or more, than in place, where the caption's last letters join in."""
    words = byte_level_bpe()
    config = EncoderConfig(template="the {caption}" + after, max_tokens=16)
    captions = [
        f"{caption}, {caption} {end}"
        for caption in CAPTIONS[::2]
        for end in ("sq", "ab", "red caf", "a large red square next to")
    ]
    for caption, found in zip(captions, tokenise(words, captions, config, 400), strict=True):
        assert found.truncated
        assert len(found.ids) == 16
        whole = words(f"the {caption}{after}")["input_ids"]
        kept = next(k for k in range(1, 16) if words.decode(whole[-k:]).endswith(after))
        assert found.ids == [*whole[: 15 - kept], *whole[len(whole) - kept :], 1]


def test_an_eos_of_the_tokenizers_own_is_not_doubled() -> None:
    class OwnEos:
        """A tokenizer that ends every text with EOS, as some do."""

        eos_token_id, pad_token_id = 1, 0

        def __call__(self, texts, **settings):
            found = tokenizer()(texts, **settings)
            return {"input_ids": [[*ids, 1] for ids in found["input_ids"]]}

    encoder = make()
    expected = encoder(CAPTIONS)
    encoder.tokenizer = OwnEos()
    assert all(torch.equal(one, other) for one, other in zip(encoder(CAPTIONS), expected, strict=True))


@pytest.mark.parametrize("of", [lambda words: words, Slow], ids=["fast", "slow"])
def test_a_tokenizer_that_ends_texts_itself_cuts_as_one_that_is_told_to(of: Callable[[Any], Any]) -> None:
    """Whether EOS is the tokenizer's or ours: words after the caption stay, and what is cut is the caption."""
    captions = ["red green blue small", "red green blue small large circle", "a", ""]
    for template in ("{caption} next to the left", "the {caption} below", "{caption}"):
        settings = {"template": template, "max_tokens": 7}
        told = tokenise(of(tokenizer()), captions, EncoderConfig(**settings), 64)
        itself = tokenise(of(ending_itself(tokenizer())), captions, EncoderConfig(append_eos=False, **settings), 64)
        assert itself == told
    (found,) = tokenise(
        of(ending_itself(tokenizer())),
        captions[:1],
        EncoderConfig(template="{caption} next to the left", append_eos=False, max_tokens=7),
        64,
    )
    assert tokenizer().convert_ids_to_tokens(found.ids) == ["red", "green", "next", "to", "the", "left", "<eos>"]


@pytest.mark.parametrize("append_eos", [True, False])
@pytest.mark.parametrize("of", [lambda words: words, Slow], ids=["fast", "slow"])
def test_an_eos_of_the_template_is_one_of_its_words(of: Callable[[Any], Any], append_eos: bool) -> None:
    config = EncoderConfig(template="{caption} below <eos>", append_eos=append_eos, max_tokens=4)
    (found,) = tokenise(of(tokenizer()), ["red green blue"], config, 64)
    assert tokenizer().convert_ids_to_tokens(found.ids) == ["red", "green", "below", "<eos>"]


def test_padding_is_never_read() -> None:
    """Any token may fill a batch."""
    encoder = make()
    expected = encoder(CAPTIONS)
    for token in ("<eos>", "red"):
        encoder.tokenizer.pad_token = token
        assert all(torch.equal(one, other) for one, other in zip(encoder(CAPTIONS), expected, strict=True))


def test_a_tokenizer_without_what_is_needed_is_refused() -> None:
    bare = tokenizer()
    bare.eos_token = None
    with pytest.raises(ValueError, match="no EOS token"):
        Encoder(build("llama"), bare, EncoderConfig(dtype="float32"))
    bare = tokenizer()
    bare.pad_token = None
    with pytest.raises(ValueError, match=r"no pad token; .* tokenizer.pad_token = tokenizer.eos_token"):
        Encoder(build("llama"), bare, EncoderConfig(dtype="float32"))


def test_an_eos_without_an_embedding_is_refused_at_once() -> None:
    larger = tokenizer()
    larger.add_tokens([f"word{i}" for i in range(80)])
    larger.eos_token = "word79"
    with pytest.raises(ValueError, match="the tokenizer's EOS has the id 101; expected one below 64"):
        Encoder(build("llama"), larger)
    Encoder(build("llama"), larger, EncoderConfig(append_eos=False))


def test_an_id_without_an_embedding_names_the_caption() -> None:
    larger = tokenizer()
    larger.add_tokens([f"word{i}" for i in range(80)])
    encoder = Encoder(build("llama"), larger, EncoderConfig(dtype="float32"))
    with pytest.raises(ValueError, match="caption 'a word79': the tokenizer gives id 101; expected ids below 64"):
        encoder(["a word79"])


def test_a_caption_that_has_no_encoding_costs_no_other_one() -> None:
    encoder = make()
    encoder.tokenizer.add_tokens([f"word{i}" for i in range(80)])  # of which the LLM has embeddings of a few
    results = encoder.encode(["a red circle", "a word79", "the blue square"])
    assert [isinstance(result, BadCaption) for result in results] == [False, True, False]
    assert isinstance(results[1], BadCaption)
    assert results[1].reason == "no_embedding"
    assert torch.equal(torch.cat(results[::2]), torch.cat(make()(["a red circle", "the blue square"])))
    with pytest.raises(BadCaption, match="the tokenizer gives id"):
        encoder(["a word79"])


def test_a_control_token_in_a_caption_is_text() -> None:
    encoder = make()
    (found,) = tokenise(encoder.tokenizer, ["red <eos> circle"], encoder.config, encoder.llm.vocabulary)
    assert found.ids.count(encoder.tokenizer.eos_token_id) == 1  # the one that `append_eos` adds
    config = dataclasses.replace(encoder.config, template="{caption} <pad>")
    (bad,) = try_tokenise(encoder.tokenizer, ["red <eos>"], config, encoder.llm.vocabulary)
    assert isinstance(bad, BadCaption)
    assert bad.reason == "control_token"


def test_more_tokens_than_the_llm_has_positions_are_refused_by_name() -> None:
    make(max_tokens=256)
    with pytest.raises(ValueError, match="max_tokens is 257; expected at most 256, the positions"):
        make(max_tokens=257)
