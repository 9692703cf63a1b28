"""A control token's letters in a caption are text, whatever kind of tokenizer reads them."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CTRLTokenizer, LlamaConfig, PreTrainedTokenizerFast

from llmdiff.encoder import Encoder, EncoderConfig
from llmdiff.encoder.tokens import BadCaption, Tokens, try_tokenise
from tests.encoder.tiny_models import SMALL, build, tokenizer

CONTROL = ("<s>", "</s>", "<|im_end|>", "<|endoftext|>")
CORPUS = ["a red circle left of a blue square", "< s > / | im_end endoftext", *CONTROL]


def trained(model: Any, trainer: Any) -> PreTrainedTokenizerFast:
    backend = Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = [*CONTROL, "<unk>"]
    options = {"special_tokens": special, "show_progress": False}
    if trainer is trainers.UnigramTrainer:
        options["unk_token"] = "<unk>"
    backend.train_from_iterator(CORPUS * 5, trainer(initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), **options))
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="</s>",
        bos_token="<s>",
        unk_token="<unk>",
        extra_special_tokens=special[2:4],
    )


def bpe() -> Any:
    return trained(models.BPE(), trainers.BpeTrainer)


def unigram() -> Any:
    return trained(models.Unigram(), trainers.UnigramTrainer)


def word_level() -> Any:
    words = tokenizer()
    words.add_special_tokens({"extra_special_tokens": list(CONTROL)})
    return words


def in_python(folder: Path) -> Any:
    """A tokenizer that is no Rust code."""
    pieces = ["<unk>", "a", "re@@", "d</w>", "<@@", "s@@", ">", "/@@", "|@@"]
    (folder / "vocab.json").write_text(json.dumps({piece: i for i, piece in enumerate(pieces)}))
    (folder / "merges.txt").write_text("#version\n")
    slow = CTRLTokenizer(folder / "vocab.json", folder / "merges.txt", unk_token="<unk>")
    slow.add_special_tokens({"eos_token": "</s>", "bos_token": "<s>", "extra_special_tokens": list(CONTROL[2:])})
    return slow


@pytest.mark.parametrize("letters", CONTROL)
@pytest.mark.parametrize("make", [bpe, unigram, word_level, in_python])
def test_letters_of_a_control_token_are_never_that_token(
    make: Callable[..., Any], letters: str, tmp_path: Path
) -> None:
    words = make(tmp_path) if make is in_python else make()
    unused = copy.deepcopy(words)  # trained anew, a tokenizer may number its tokens another way
    config = EncoderConfig(append_eos=False)
    ids = [words.convert_tokens_to_ids(token) for token in CONTROL]
    for caption in (f"a red {letters} circle", letters, f"{letters}{letters}", f"a{letters}"):
        (found,) = try_tokenise(words, [caption], config, 10_000)
        if isinstance(found, Tokens):
            assert not set(ids) & set(found.ids)
        else:
            assert (found.reason, make) in (("control_token", unigram), ("control_token", word_level))
    after, expected = (try_tokenise(each, ["a red circle"], config, 10_000) for each in (words, unused))
    assert after == expected


def test_a_word_that_pads_is_a_word() -> None:
    words = tokenizer()
    words.pad_token = "red"
    (found,) = try_tokenise(words, ["a red circle"], EncoderConfig(append_eos=False), 10_000)
    assert found == Tokens(words.convert_tokens_to_ids(["a", "red", "circle"]), truncated=False)


def test_a_control_token_of_the_template_stays_one() -> None:
    words = bpe()
    config = EncoderConfig(template="<s>{caption}<|im_end|>", append_eos=False)
    plain, bad = try_tokenise(words, ["a red circle", "a </s>"], config, 10_000)
    assert isinstance(plain, Tokens)
    assert plain.ids[0] == words.convert_tokens_to_ids("<s>")
    assert plain.ids[-1] == words.convert_tokens_to_ids("<|im_end|>")
    assert isinstance(bad, BadCaption)
    assert bad.reason == "control_token"


def test_a_token_of_the_chat_template_is_a_control_token_though_nobody_calls_it_special() -> None:
    words = bpe()
    words.add_tokens(["<turn>", "circles", "  "])
    words.chat_template = "{% for m in messages %}<turn>{{ m['content'] }}  {% endfor %}"
    plain, bad = try_tokenise(words, ["a  red circles", "a <turn>"], EncoderConfig(append_eos=False), 10_000)
    assert isinstance(plain, Tokens)
    assert words.convert_tokens_to_ids("circles") in plain.ids
    assert isinstance(bad, BadCaption)
    assert (bad.reason, "the control token '<turn>'" in str(bad)) == ("control_token", True)


@pytest.mark.parametrize("keep", ["all", "caption"])
def test_letters_that_the_tokenizer_normalises_to_a_control_token_are_letters(keep: Any) -> None:
    words = word_level()
    words.backend_tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    words.backend_tokenizer.add_special_tokens([AddedToken("</turn>", normalized=True, special=True)])
    unknown = words.unk_token_id
    config = EncoderConfig(append_eos=False, template="the {caption} below", template_keep=keep)
    for caption in ("red </TURN> circle", "red \uff1c/turn\uff1e circle"):
        (found,) = try_tokenise(words, [caption], config, 10_000)
        assert isinstance(found, Tokens)
        inner = [words.convert_tokens_to_ids("red"), *[unknown] * 3, words.convert_tokens_to_ids("circle")]
        around = words.convert_tokens_to_ids(["the", "below"])
        assert found.ids == [around[0], *inner, around[1]]
        assert found.ids[found.keep] == (found.ids if keep == "all" else inner)


@pytest.mark.parametrize(
    ("settings", "lacking"),
    [
        ({}, "expected tokenizer_class and add_bos_token"),
        ({"tokenizer_class": "LlamaTokenizer"}, "expected add_bos_token"),
        ({"add_bos_token": True}, "expected tokenizer_class"),
    ],
)
def test_a_tokenizer_model_that_does_not_say_how_texts_begin_is_refused(
    tmp_path: Path, settings: dict[str, Any], lacking: str
) -> None:
    """Without these settings transformers gives other ids than for the whole folder: no BOS, other first words."""
    LlamaConfig(**SMALL).save_pretrained(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(b"")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=rf"tokenizer_config\.json: {lacking}, for there is tokenizer\.model and no"):
        Encoder.from_pretrained(tmp_path)


def test_a_vocabulary_without_its_merges_is_refused(tmp_path: Path) -> None:
    LlamaConfig(**SMALL).save_pretrained(tmp_path)
    (tmp_path / "vocab.json").write_text("{}")
    with pytest.raises(ValueError, match=r"expected tokenizer\.json, or merges\.txt beside vocab\.json"):
        Encoder.from_pretrained(tmp_path)


def test_too_many_tokens_are_refused_before_tokenizer_and_weights_are_read(tmp_path: Path) -> None:
    LlamaConfig(**SMALL).save_pretrained(tmp_path)
    save_file({}, tmp_path / "model.safetensors")
    tokenizer().save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    positions = SMALL["max_position_embeddings"]
    expected = rf"LLM {tmp_path}: max_tokens is {positions + 1}; expected at most {positions}, the positions"
    with pytest.raises(ValueError, match=expected):
        Encoder.from_pretrained(tmp_path, EncoderConfig(max_tokens=positions + 1))


def test_a_caption_of_a_megabyte_is_cut_and_costs_no_other_one() -> None:
    encoder = Encoder(build("llama"), tokenizer(), EncoderConfig(dtype="float32", max_tokens=8))
    long, short = encoder.encode(["red " * 250_000, "a red circle"])
    assert len(long) == 8
    assert encoder.truncated == 1
    torch.testing.assert_close(short, encoder(["a red circle"])[0])
