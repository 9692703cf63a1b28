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
        ValueError: a caption without a token, or a token id that the LLM has no embedding for.
    """
    if not captions:
        return []
    texts = [config.template.replace("{caption}", caption) for caption in captions]
    found = [_finish(ids, tokenizer.eos_token_id, config) for ids in tokenizer(texts, verbose=False)["input_ids"]]
    for caption, tokens in zip(captions, found, strict=True):
        if not tokens.ids:
            raise ValueError(f"caption {caption!r} has no token; expected text, or append_eos=True")
        if max(tokens.ids) >= vocabulary:
            expected = f"ids below {vocabulary}, the LLM's vocabulary"
            raise ValueError(f"caption {caption!r}: the tokenizer gives id {max(tokens.ids)}; expected {expected}")
    return found


def _finish(ids: list[int], eos: int | None, config: EncoderConfig) -> Tokens:
    """Cut to ``max_tokens`` with EOS at the end, where it is wanted (once, though the tokenizer may add its own)."""
    if not config.append_eos:
        return Tokens(ids[: config.max_tokens], len(ids) > config.max_tokens)
    assert eos is not None
    body = ids[:-1] if ids and ids[-1] == eos else ids
    room = config.max_tokens - 1
    return Tokens([*body[:room], eos], len(body) > room)


def padding_id(tokenizer: Any) -> int:
    """The id that fills a batch on the right, where no token ever sees it: the pad token, or else EOS.

    Raises:
        ValueError: the tokenizer has neither.
    """
    for token in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    raise ValueError("the tokenizer has no pad token and no EOS token; set tokenizer.pad_token to one of its tokens")
