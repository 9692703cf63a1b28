"""From a caption to token ids: normalisation, template, end of sequence, truncation."""

from __future__ import annotations

import hashlib
import unicodedata
from dataclasses import dataclass
from typing import Any

from llmdiff.encoder.config import EncoderConfig


@dataclass(frozen=True)
class Tokens:
    """A caption's token ids, and whether it was cut."""

    ids: list[int]
    truncated: bool


def normalise(caption: str) -> str:
    """The caption in Unicode's composed form: captions that look the same are the same."""
    return unicodedata.normalize("NFC", caption)


def caption_key(caption: str) -> int:
    """64 bits of the normalised caption's SHA-256, as a signed integer: its place in the noise's counter."""
    return int.from_bytes(hashlib.sha256(normalise(caption).encode()).digest()[:8], "big", signed=True)


def tokenise(tokenizer: Any, captions: list[str], config: EncoderConfig, vocabulary: int) -> list[Tokens]:
    """Token ids of normalised captions.

    Raises:
        ValueError: a template that leaves no room, a caption without a token, or a token id that the LLM has no
            embedding for.
    """
    if not captions:
        return []
    texts = [config.template.replace("{caption}", caption) for caption in captions]
    after = config.template.partition("{caption}")[2]
    kept = len(tokenizer(after, add_special_tokens=False)["input_ids"]) if after else 0
    room = config.max_tokens - config.append_eos
    if kept and kept >= room:
        raise ValueError(
            f"max_tokens is {config.max_tokens}; expected more than the template's {kept} after the caption"
        )
    end = [tokenizer.eos_token_id] if config.append_eos else []
    found = []
    for text, ids in zip(texts, tokenizer(texts, verbose=False)["input_ids"], strict=True):
        body = ids[:-1] if end and ids[-1:] == end else ids  # the tokenizer may add an EOS of its own
        truncated = len(body) > room
        if truncated:
            body = _cut(body, room, _kept(tokenizer, text, after, kept))
        found.append(Tokens([*body, *end], truncated))
    for caption, tokens in zip(captions, found, strict=True):
        if not tokens.ids:
            raise ValueError(f"caption {caption!r} has no token; expected text, or append_eos=True")
        if max(tokens.ids) >= vocabulary:
            expected = f"ids below {vocabulary}, the LLM's vocabulary"
            raise ValueError(f"caption {caption!r}: the tokenizer gives id {max(tokens.ids)}; expected {expected}")
    return found


def _cut(ids: list[int], room: int, kept: int) -> list[int]:
    """The ids cut to `room`. What is cut is the caption: the last `kept` tokens are the template's."""
    kept = min(kept, room)
    return ids[: room - kept] + ids[len(ids) - kept :]


def _kept(tokenizer: Any, text: str, after: str, alone: int) -> int:
    """How many of a text's last tokens hold what the template puts after the caption.

    In its place it need not fall into the tokens that it has alone: letters join with the caption's. A tokenizer that
    cannot say which letters a token is of is taken at what it makes of them alone.
    """
    if not alone or not getattr(tokenizer, "is_fast", False):
        return alone
    start = len(text) - len(after)
    ends = [end for _, end in tokenizer(text, verbose=False, return_offsets_mapping=True)["offset_mapping"]]
    return sum(end > start for end in ends)


def padding_id(tokenizer: Any) -> int:
    """The id that fills a batch on the right, where no token ever sees it.

    Raises:
        ValueError: the tokenizer has no pad token.
    """
    if tokenizer.pad_token_id is None:
        raise ValueError(
            "the tokenizer has no pad token; set one, as in tokenizer.pad_token = tokenizer.eos_token: padding never "
            "reaches an encoding"
        )
    return int(tokenizer.pad_token_id)
