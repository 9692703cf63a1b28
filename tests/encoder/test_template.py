"""Which tokens are kept of a caption in its template, and the tokenizer's own template for a chat."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import processors
from transformers import AutoTokenizer

from llmdiff.encoder import Encoder, EncoderConfig
from llmdiff.encoder.template import resolve_template
from llmdiff.encoder.tokens import BadCaption, Tokens, tokenise, try_tokenise
from tests.encoder.test_control_tokens import in_python
from tests.encoder.tiny_encoder import Slow, byte_level_bpe, ending_itself
from tests.encoder.tiny_models import build, tokenizer
from tests.examples import examples

CAPTIONS = ["a red circle next to the blue square", "a", "the small green triangle is above a large red square"]
TEMPLATE = "the small {caption} above the square"
CHAT = (
    "{{ bos_token }}{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def make(words: Any = None, **changes: Any) -> Encoder:
    return Encoder(build("llama"), words or tokenizer(), EncoderConfig(**{"template": TEMPLATE, **changes}))


def kept(words: Any, caption: str, **changes: Any) -> list[int]:
    """The token ids whose encodings are kept."""
    config = EncoderConfig(**{"template": TEMPLATE, **changes})
    (found,) = tokenise(words, [caption], config, 10_000)
    assert found.kept == len(found.ids[found.keep]) >= 1
    return found.ids[found.keep]


@pytest.mark.parametrize("reading", ["score", "layers:0,2", "norm_mean"])
def test_kept_encodings_are_those_of_the_whole_text(reading: str) -> None:
    whole = make(reading=reading)(CAPTIONS)
    caption = make(reading=reading, template_keep="caption")(CAPTIONS)
    after = make(reading=reading, template_keep="after")(CAPTIONS)
    for text, all_of_it, middle, end in zip(CAPTIONS, whole, caption, after, strict=True):
        count = len(text.split())
        assert torch.equal(middle, all_of_it[..., 2 : 2 + count, :])
        assert torch.equal(end, all_of_it[..., 2 + count :, :])
        assert end.shape[-2] == 4


def test_a_cut_caption_keeps_what_is_left_of_it() -> None:
    words = tokenizer()
    long = "red green blue small large circle"
    ids = words(long)["input_ids"]
    assert kept(words, long, template_keep="caption", max_tokens=9) == ids[:3]
    assert kept(words, long, template_keep="after", max_tokens=9) == [*words("above the square")["input_ids"], 1]
    assert kept(words, long, max_tokens=9) == [
        *words(f"the small {' '.join(long.split()[:3])} above the square")["input_ids"],
        1,
    ]
    with pytest.raises(ValueError, match="max_tokens is 6; expected more than the template's 5 tokens and EOS"):
        kept(words, long, template_keep="caption", max_tokens=6)
    assert kept(words, long, template_keep="caption", max_tokens=3, template="{caption}") == ids[:2]


@pytest.mark.parametrize("make_words", [tokenizer, byte_level_bpe, in_python])
def test_the_empty_caption_always_has_an_encoding(make_words: Any, tmp_path) -> None:
    words = make_words(tmp_path) if make_words is in_python else make_words()
    eos = words.eos_token_id
    before = words("the small", add_special_tokens=False)["input_ids"]
    assert kept(words, "", template_keep="caption", template="{caption}") == [eos]
    assert kept(words, "", template_keep="after", template="{caption}") == [eos]
    assert kept(words, "", template_keep="caption", template="the small{caption}") == before[-1:]
    assert kept(words, "", template_keep="after", template="the small{caption}") == [eos]
    assert kept(words, "", template_keep="caption", template="{caption}the small") == before[:1]
    assert kept(words, "", template_keep="after", template="{caption}the small", append_eos=False) == before
    (bad,) = try_tokenise(words, [""], EncoderConfig(template_keep="caption", append_eos=False), 10_000)
    assert isinstance(bad, BadCaption)
    assert bad.reason == "no_token"


def test_text_after_the_caption_that_has_no_token_leaves_the_last_one() -> None:
    words = tokenizer()
    found = kept(words, "a red circle", template="{caption} ", template_keep="after", append_eos=False)
    assert found == words("circle")["input_ids"]


def test_a_begin_of_text_token_is_not_the_captions() -> None:
    words = tokenizer()
    words.add_special_tokens({"bos_token": "<s>"})
    begin = words.bos_token_id
    words.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", begin)]
    )
    ids = words("a red circle", add_special_tokens=False)["input_ids"]
    assert kept(words, "a red circle", template="{caption}") == [begin, *ids, 1]
    assert kept(words, "a red circle", template="{caption}", template_keep="caption") == ids
    assert kept(words, "", template="{caption}", template_keep="caption") == [begin]
    assert kept(words, "", template="{caption}", template_keep="after") == [1]


@pytest.mark.parametrize("of", [lambda words: words, Slow], ids=["fast", "slow"])
@pytest.mark.parametrize("append_eos", [True, False])
def test_an_eos_of_the_tokenizers_own_is_not_the_captions(of: Any, append_eos: bool) -> None:
    words = of(ending_itself(tokenizer()))
    ids = words("red green blue", add_special_tokens=False)["input_ids"]
    below = words("below", add_special_tokens=False)["input_ids"]
    own = {"template": "the {caption} below", "append_eos": append_eos}
    for max_tokens, left in ((120, 3), (5, 2)):
        assert kept(words, "red green blue", template_keep="caption", max_tokens=max_tokens, **own) == ids[:left]
        assert kept(words, "red green blue", template_keep="after", max_tokens=max_tokens, **own) == [*below, 1]
    for template in ("the {caption}", "the {caption} below"):
        own["template"] = template
        assert kept(words, "", template_keep="caption", **own) == words("the", add_special_tokens=False)["input_ids"]


@settings(max_examples=examples(60), deadline=None)
@given(
    st.text(alphabet="ab rsq,é\u65e5", max_size=8),
    st.text(alphabet="ab rsq,é", max_size=14),
    st.text(alphabet="ab rsq,é", max_size=8),
)
def test_every_letter_of_a_caption_is_in_what_is_kept_of_it(before: str, caption: str, after: str) -> None:
    """Letters join with the template's: a token with any of the caption's is the caption's, and no other one is."""
    words = BPE
    template = before + "{caption}" + after
    (whole,) = tokenise(words, [caption], EncoderConfig(template=template), 10_000)
    middle = kept(words, caption, template=template, template_keep="caption")
    end = kept(words, caption, template=template, template_keep="after")
    assert end == whole.ids[-len(end) :]
    decoded = words.decode(middle)
    if caption:
        assert caption.strip() in decoded or "\ufffd" in decoded
        start = len(whole.ids) - len(end) - len(middle)
        assert whole.ids[start : start + len(middle)] == middle
        text_before, text_after = words.decode(whole.ids[:start]), words.decode(end[:-1])
        assert before.startswith(text_before.rstrip("\ufffd").rstrip())
        assert after.endswith(text_after.lstrip("\ufffd"))


BPE = byte_level_bpe()


def test_a_caption_with_a_control_tokens_letters_is_kept_as_letters() -> None:
    words = byte_level_bpe()
    found = kept(words, "red <eos>", template="the {caption} below", template_keep="caption")
    assert words.decode(found).strip() == "red <eos>"
    assert words.eos_token_id not in found


def with_chat(text: str = CHAT, **special: str) -> Any:
    words = byte_level_bpe()
    roles = ["<|user|>", "<|assistant|>"]
    words.add_special_tokens({"extra_special_tokens": roles, **special})
    words.chat_template = text
    return words


def test_a_chat_is_what_the_tokenizer_makes_of_it() -> None:
    words = with_chat()
    config = resolve_template(words, EncoderConfig(template="chat", append_eos=False))
    assert config.template == "<|user|>{caption}<|assistant|>"
    for caption in CAPTIONS:
        message = [{"role": "user", "content": caption}]
        ids = words.apply_chat_template(message, add_generation_prompt=True, return_dict=False)
        assert tokenise(words, [caption], config, 10_000) == [Tokens(ids, truncated=False)]
    (bad,) = try_tokenise(words, ["a <|user|>"], config, 10_000)
    assert isinstance(bad, BadCaption)
    assert bad.reason == "control_token"


def test_a_chat_begins_once_with_a_tokenizer_that_begins_every_text() -> None:
    words = with_chat(bos_token="<s>")
    assert resolve_template(words, EncoderConfig(template="chat")).template == "<s><|user|>{caption}<|assistant|>"
    begin = ("<s>", words.bos_token_id)
    words.backend_tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[begin])
    config = resolve_template(words, EncoderConfig(template="chat", append_eos=False))
    assert config.template == "<|user|>{caption}<|assistant|>"
    message = [{"role": "user", "content": "a red circle"}]
    ids = words.apply_chat_template(message, add_generation_prompt=True, return_dict=False)
    assert tokenise(words, ["a red circle"], config, 10_000)[0].ids == ids


def test_a_chat_that_tells_the_date_is_the_same_on_any_day() -> None:
    words = with_chat("{{ strftime_now('%d %b %Y') }} " + CHAT)
    template = resolve_template(words, EncoderConfig(template="chat")).template
    assert template.startswith("26 Jul 2024 ")
    assert str(datetime.now().year) not in template


def test_a_tokenizer_without_a_fitting_chat_template_is_refused() -> None:
    with pytest.raises(ValueError, match="template is 'chat', and the tokenizer has no chat template; expected text"):
        make(template="chat")
    for text in ("{{ messages[0]['content'] }} {{ messages[0]['content'] }}", "{{ messages[0]['content'] | upper }}"):
        with pytest.raises(ValueError, match="expected a chat template that holds a message once, got"):
            make(with_chat(text), template="chat")


def test_a_folder_without_a_chat_template_is_refused_by_name(tmp_path) -> None:
    build("llama").save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"LLM {tmp_path}: template is 'chat', and the tokenizer has no chat template"):
        Encoder.from_pretrained(tmp_path, EncoderConfig(template="chat"))


def test_a_chat_is_described_by_its_text() -> None:
    """So another chat template is another fingerprint, and what was trained with it loads from the description."""
    words = tokenizer()
    words.chat_template = "{% for m in messages %}a picture {{ m['content'] }} above{% endfor %}"
    encoder = make(words, template="chat", template_keep="after")
    about = encoder.describe()
    assert about["template"] == encoder.config.template == "a picture {caption} above"
    assert about["template_keep"] == "after"
    assert torch.equal(
        encoder(["a red circle"])[0], make(template="a picture {caption} above")(["a red circle"])[0][-2:]
    )


def test_a_chat_with_a_real_llms_tokenizer(smollm2: Path) -> None:
    words = AutoTokenizer.from_pretrained(smollm2)
    config = resolve_template(words, EncoderConfig(template="chat", append_eos=False, template_keep="caption"))
    caption = "a photo of a cat"
    (found,) = tokenise(words, [caption], config, 49_152)
    message = [{"role": "user", "content": caption}]
    assert found.ids == words.apply_chat_template(message, add_generation_prompt=True, return_dict=False)
    assert words.decode(found.ids[found.keep]) == caption
    (empty,) = tokenise(words, [""], config, 49_152)
    assert words.decode(empty.ids[empty.keep]) == "\n", "the end of the user's turn's beginning"
