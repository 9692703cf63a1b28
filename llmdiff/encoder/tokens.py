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
    if kept and kept + config.append_eos >= config.max_tokens:
        raise ValueError(
            f"max_tokens is {config.max_tokens}; expected more than the template's {kept} after the caption"
        )
    eos = tokenizer.eos_token_id
    found = []
    for text, ids in zip(texts, tokenizer(texts, verbose=False)["input_ids"], strict=True):
        cut = len(ids) > config.max_tokens - config.append_eos
        found.append(_finish(ids, _kept(tokenizer, text, after, kept) if cut else 0, eos, config))
    for caption, tokens in zip(captions, found, strict=True):
        if not tokens.ids:
            raise ValueError(f"caption {caption!r} has no token; expected text, or append_eos=True")
        if max(tokens.ids) >= vocabulary:
            expected = f"ids below {vocabulary}, the LLM's vocabulary"
            raise ValueError(f"caption {caption!r}: the tokenizer gives id {max(tokens.ids)}; expected {expected}")
    return found


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


def _finish(ids: list[int], kept: int, eos: int | None, config: EncoderConfig) -> Tokens:
    """Ids with EOS at the end, where it is wanted (once, though the tokenizer may add its own), cut to ``max_tokens``.

    What is cut is the caption: the last `kept` tokens are the template's.
    """
    body = ids[:-1] if config.append_eos and ids and ids[-1] == eos else ids
    room = config.max_tokens - config.append_eos
    truncated = len(body) > room
    if truncated:
        kept = min(kept, room)
        body = body[: room - kept] + body[len(body) - kept :]
    if config.append_eos:
        assert eos is not None
        body = [*body, eos]
    return Tokens(body, truncated)


def padding_id(tokenizer: Any) -> int:
    """The id that fills a batch on the right, where no token ever sees it: the pad token, or else EOS.

    Raises:
        ValueError: the tokenizer has neither.
    """
    for token in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    raise ValueError("the tokenizer has no pad token and no EOS token; set tokenizer.pad_token to one of its tokens")
