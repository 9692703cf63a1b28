"""From a caption to token ids: normalisation, template, end of sequence, truncation."""

from __future__ import annotations

import hashlib
import unicodedata
from dataclasses import dataclass
from typing import Any

from llmdiff.encoder.config import EncoderConfig
from llmdiff.encoder.template import caption_span, kept_range


@dataclass(frozen=True)
class Tokens:
    """A caption's token ids, whether it was cut, and of which tokens the encodings are kept."""

    ids: list[int]
    truncated: bool
    start: int = 0
    stop: int | None = None

    @property
    def keep(self) -> slice:
        """The tokens that are kept, see `EncoderConfig.template_keep`."""
        return slice(self.start, self.stop)

    @property
    def kept(self) -> int:
        """How many they are."""
        return len(self.ids[self.keep])


def normalise(caption: str) -> str:
    """The caption in Unicode's composed form: captions that look the same are the same."""
    return unicodedata.normalize("NFC", caption)


def caption_key(caption: str) -> int:
    """64 bits of the normalised caption's SHA-256, as a signed integer: its place in the noise's counter."""
    return int.from_bytes(hashlib.sha256(normalise(caption).encode()).digest()[:8], "big", signed=True)


class BadCaption(ValueError):
    """A caption that an LLM cannot encode: `reason` is one of a few words to count by, the message says why."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[type[BadCaption], tuple[Any, ...]]:
        return type(self), (self.reason, str(self))


def tokenise(tokenizer: Any, captions: list[str], config: EncoderConfig, vocabulary: int) -> list[Tokens]:
    """Return token ids of normalised captions.

    Raises:
        ValueError: the template leaves no room.
        BadCaption: as `try_tokenise` gives it, the first one.
    """
    found = []
    for tokens in try_tokenise(tokenizer, captions, config, vocabulary):
        if isinstance(tokens, BadCaption):
            raise tokens
        found.append(tokens)
    return found


def try_tokenise(
    tokenizer: Any, captions: list[str], config: EncoderConfig, vocabulary: int
) -> list[Tokens | BadCaption]:
    """Return token ids of normalised captions; in place of one that has none, that the LLM can embed, why.

    What a caption says is text: a control token's letters in it are tokenised as letters. A template for a chat is
    one that `resolve_template` has made text of.

    Raises:
        ValueError: the template leaves no room for a caption.
    """
    if not captions:
        return []
    assert "{caption}" in config.template
    after = config.template.partition("{caption}")[2]
    kept = len(tokenizer(after, add_special_tokens=False)["input_ids"]) if after else 0
    room = config.max_tokens - config.append_eos
    if kept and kept >= room:
        raise ValueError(
            f"max_tokens is {config.max_tokens}; expected more than the template's {kept} after the caption"
        )
    end = [tokenizer.eos_token_id] if config.append_eos else []
    found: list[Tokens | BadCaption] = []
    for caption, ids in zip(captions, _token_ids(tokenizer, captions, config.template), strict=True):
        if isinstance(ids, BadCaption):
            found.append(ids)
            continue
        body = ids[:-1] if end and ids[-1:] == end else ids  # the tokenizer may add an EOS of its own
        first, last = _span(tokenizer, config, caption, body)
        if (cut := len(body) - room) > 0:
            text = config.template.replace("{caption}", caption)
            body = _cut(body, room, _kept(tokenizer, text, after, kept))
            last = max(0, last - cut)
        kept_of = kept_range(config.template_keep, (min(first, last), last), len(body) + len(end))
        found.append(_checked(caption, Tokens([*body, *end], cut > 0, *kept_of), vocabulary))
    return found


def _span(tokenizer: Any, config: EncoderConfig, caption: str, ids: list[int]) -> tuple[int, int]:
    """Return the range of the caption's tokens where it is asked for, else that of all."""
    if config.template_keep == "all":
        return 0, len(ids)
    split = any(token in caption for token in control_tokens(tokenizer))
    return caption_span(tokenizer, config.template, caption, ids, split)


def _token_ids(tokenizer: Any, captions: list[str], template: str) -> list[list[int] | BadCaption]:
    """Return what the tokenizer makes of each caption in its template."""
    texts = [template.replace("{caption}", caption) for caption in captions]
    control = control_tokens(tokenizer)
    of_template = any(token in template for token in control)
    found: list[list[int] | BadCaption] = list(tokenizer(texts, verbose=False)["input_ids"])
    for i, caption in enumerate(captions):
        held = next((token for token in control if token in caption), None)
        if held is None:
            continue
        if of_template:
            both = "which the template has others of: they cannot be told apart"
            found[i] = BadCaption("control_token", f"caption {caption!r} has the control token {held!r}, {both}")
            continue
        ids = found[i] = tokenizer(texts[i], verbose=False, split_special_tokens=True)["input_ids"]
        of_empty = tokenizer(template.replace("{caption}", ""), verbose=False)["input_ids"]
        if _controls(tokenizer, ids) > _controls(tokenizer, of_empty):
            even_so = "which this tokenizer finds even where it is to read letters"
            found[i] = BadCaption("control_token", f"caption {caption!r} has the control token {held!r}, {even_so}")
    return found


def _controls(tokenizer: Any, ids: list[int]) -> int:
    """Return how many ids are control tokens'; a text may hold the one for unknown letters, and a word that pads."""
    harmless = {tokenizer.unk_token, tokenizer.pad_token} - {tokenizer.bos_token, tokenizer.eos_token}
    controls = {tokenizer.convert_tokens_to_ids(token) for token in control_tokens(tokenizer) if token not in harmless}
    return sum(i in controls for i in ids)


def control_tokens(tokenizer: Any) -> list[str]:
    """Return the tokens that a tokenizer finds in a text before all others, and that mean more than their letters."""
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    return sorted({*getattr(tokenizer, "all_special_tokens", ()), *(str(token) for token in added if token.special)})


def _checked(caption: str, tokens: Tokens, vocabulary: int) -> Tokens | BadCaption:
    if not tokens.ids:
        return BadCaption("no_token", f"caption {caption!r} has no token; expected text, or append_eos=True")
    if (largest := max(tokens.ids)) >= vocabulary:
        expected = f"expected ids below {vocabulary}, the LLM's vocabulary"
        return BadCaption("no_embedding", f"caption {caption!r}: the tokenizer gives id {largest}; {expected}")
    return tokens


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
