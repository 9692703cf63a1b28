"""The text around a caption: the tokenizer's own for a chat, and which tokens of the whole are the caption's."""

from __future__ import annotations

import dataclasses
from typing import Any

from llmdiff.encoder.config import CHAT, EncoderConfig, TemplateKeep
from llmdiff.model_files.model_folders import first_line

TODAY = "{% macro strftime_now(format) %}26 Jul 2024{% endmacro +%}"
"""Macro put before a chat template, so that one with today's date gives the same encodings on any day."""


def resolve_template(tokenizer: Any, config: EncoderConfig) -> EncoderConfig:
    """Return the settings with the tokenizer's chat template, where it is asked for, as text around the caption.

    A begin-of-text token that the tokenizer puts before every text is left out of it.

    Raises:
        ValueError: the tokenizer has no chat template, or none that holds the user's message as it is.
    """
    if config.template != CHAT:
        return config
    if not getattr(tokenizer, "chat_template", None):
        raise ValueError(
            f"template is {CHAT!r}, and the tokenizer has no chat template; expected text with {{caption}}"
        )
    message = [{"role": "user", "content": "{caption}"}]
    template = TODAY + tokenizer.get_chat_template()
    try:
        text: str = tokenizer.apply_chat_template(
            message, chat_template=template, tokenize=False, add_generation_prompt=True
        )
    except Exception as error:  # a template is a program, which may raise anything
        refused = f"the tokenizer's chat template does not take a user's message: {first_line(error)}"
        raise ValueError(f"template is {CHAT!r}; {refused}") from error
    begin = tokenizer.bos_token
    if begin and text.startswith(begin) and _begins_itself(tokenizer):
        text = text.removeprefix(begin)
    if text.count("{caption}") != 1:
        raise ValueError(f"template is {CHAT!r}; expected a chat template that holds a message once, got {text!r}")
    return dataclasses.replace(config, template=text)


def _begins_itself(tokenizer: Any) -> bool:
    """Return whether the tokenizer puts its begin-of-text token before every text."""
    return bool(tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id])


def caption_span(tokenizer: Any, template: str, caption: str, ids: list[int], split: bool) -> tuple[int, int]:
    """Return the range of a text's tokens that hold letters of its caption; an empty range where there are none.

    A tokenizer that cannot say which letters a token is of is taken at what it makes of the template's parts alone.

    Args:
        tokenizer: the tokenizer.
        template: the text around the caption.
        caption: the caption.
        ids: the tokens of both, an EOS at their end left out.
        split: whether control tokens' letters were read as letters.
    """
    before, _, after = template.partition("{caption}")
    if not getattr(tokenizer, "is_fast", False):
        stop = max(0, len(ids) - count_alone(tokenizer, after, ids))
        return min(len(without_eos(tokenizer, tokenizer(before)["input_ids"])), stop), stop
    offsets = letters(tokenizer, f"{before}{caption}{after}", split)[: len(ids)]
    start, end = len(before), len(before) + len(caption)
    inside = [i for i, (low, high) in enumerate(offsets) if high > start and low < end]
    if inside:
        return inside[0], inside[-1] + 1
    place = next((i for i, (_, high) in enumerate(offsets) if high > start), len(ids))
    return place, place


def letters(tokenizer: Any, text: str, split: bool) -> list[tuple[int, int]]:
    """Return the range of letters that each token of a text is of, from a fast tokenizer."""
    settings = {"split_special_tokens": True} if split else {}
    found = tokenizer(text, verbose=False, return_offsets_mapping=True, **settings)
    offsets: list[tuple[int, int]] = found["offset_mapping"]
    return offsets


def count_alone(tokenizer: Any, after: str, ids: list[int]) -> int:
    """Return how many tokens what the template puts after the caption has alone; less an EOS that `ids` are without."""
    alone = tokenizer(after, add_special_tokens=False)["input_ids"] if after else []
    return len(alone if ids[-1:] == alone[-1:] else without_eos(tokenizer, alone))


def without_eos(tokenizer: Any, ids: list[int]) -> list[int]:
    """Return token ids without an EOS at their end."""
    return ids[:-1] if ids[-1:] == [tokenizer.eos_token_id] else ids


def kept_range(keep: TemplateKeep, span: tuple[int, int], count: int) -> tuple[int, int | None]:
    """Return the range of the kept ones among `count` tokens, EOS included: at least one, where there are tokens.

    Where nothing is left, as of an empty caption, that is the token before the place, or the first.
    """
    first, stop = span
    if keep == "all":
        return 0, None
    first, stop = (first, stop) if keep == "caption" else (stop, count)
    return (first, stop) if first < stop else (max(first - 1, 0), max(first, 1))
