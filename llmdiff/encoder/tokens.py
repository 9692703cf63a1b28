"""Turn a caption into token ids: normalisation, template, end of sequence, truncation."""

from __future__ import annotations

import hashlib
import unicodedata
from dataclasses import dataclass
from typing import Any

from llmdiff.encoder.config import EncoderConfig
from llmdiff.encoder.template import caption_span, count_alone, kept_range, letters, without_eos


@dataclass(frozen=True)
class Tokens:
    """A caption's token ids, whether it was cut, and of which tokens the encodings are kept."""

    ids: list[int]
    truncated: bool
    start: int = 0
    stop: int | None = None

    @property
    def keep(self) -> slice:
        """Tokens whose encodings are kept, see `EncoderConfig.template_keep`."""
        return slice(self.start, self.stop)

    @property
    def kept(self) -> int:
        """Number of tokens whose encodings are kept."""
        return len(self.ids[self.keep])


def normalise(caption: str) -> str:
    """Return the caption in Unicode's composed form: captions that look the same are the same."""
    return unicodedata.normalize("NFC", caption)


def caption_key(caption: str) -> int:
    """Return 64 bits of the normalised caption's SHA-256 as a signed integer: its key in the noise's counter."""
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
    """Return the token ids of normalised captions; a BadCaption in place of one that the LLM can't embed.

    What a caption says is text: a control token's letters in it are tokenised as letters. A template for a chat is
    one that `resolve_template` has made text of.

    Raises:
        ValueError: the template leaves no room for a caption.
    """
    if not captions:
        return []
    assert "{caption}" in config.template
    check_room(tokenizer, config)
    eos = [tokenizer.eos_token_id]
    control = control_tokens(tokenizer)
    found: list[Tokens | BadCaption] = []
    for caption, read in zip(captions, _token_ids(tokenizer, captions, config.template, control), strict=True):
        if isinstance(read, BadCaption):
            found.append(read)
            continue
        ids, split = read
        body = without_eos(tokenizer, ids)
        end = eos if config.append_eos or body != ids else []  # the tokenizer may add an EOS of its own
        first, last = _span(tokenizer, config, caption, body, split)
        if (cut := len(body) + len(end) - config.max_tokens) > 0:
            body = _cut(body, len(body) - cut, _kept(tokenizer, config.template, caption, body, split))
            last = max(0, last - cut)
        kept_of = kept_range(config.template_keep, (min(first, last), last), len(body) + len(end))
        found.append(_checked(caption, Tokens([*body, *end], cut > 0, *kept_of), vocabulary))
    return found


def check_room(tokenizer: Any, config: EncoderConfig) -> None:
    """Raise ValueError where a template is so long that it leaves no token for a caption."""
    (around,) = tokenizer([config.template.replace("{caption}", "")], verbose=False)["input_ids"]
    own_eos = config.append_eos and around[-1:] == [tokenizer.eos_token_id]
    if (count := len(around) - own_eos) and count + config.append_eos >= config.max_tokens:
        what = f"the template's {count} tokens{' and EOS' if config.append_eos else ''}"
        raise ValueError(f"max_tokens is {config.max_tokens}; expected more than {what}, for every caption is cut away")


def _span(tokenizer: Any, config: EncoderConfig, caption: str, ids: list[int], split: bool) -> tuple[int, int]:
    """Return the range of the caption's tokens where it is asked for, else the range of all tokens."""
    if config.template_keep == "all":
        return 0, len(ids)
    return caption_span(tokenizer, config.template, caption, ids, split)


def _token_ids(
    tokenizer: Any, captions: list[str], template: str, control: list[str]
) -> list[tuple[list[int], bool] | BadCaption]:
    """Return the ids of each caption in its template, and whether control tokens' letters were read as letters."""
    texts = [template.replace("{caption}", caption) for caption in captions]
    meant = _meant_ids(tokenizer, control)
    usual = max(_count(meant, ids) for ids in _of_template(tokenizer, template))
    of_template = any(token in template for token in control)
    found: list[tuple[list[int], bool] | BadCaption] = []
    for text, caption, ids in zip(texts, captions, tokenizer(texts, verbose=False)["input_ids"], strict=True):
        held = _held(tokenizer, caption, ids, control, meant, usual)
        if held is None:
            found.append((ids, False))
            continue
        split = tokenizer(text, verbose=False, split_special_tokens=True)["input_ids"]
        refused = None
        if of_template:
            refused = "which the template has others of: they cannot be told apart"
        elif _count(meant, split) > usual:
            refused = "which this tokenizer finds even where it is to read letters"
        named = f"caption {caption!r} has the control token {held!r}"
        found.append((split, True) if refused is None else BadCaption("control_token", f"{named}, {refused}"))
    return found


def _of_template(tokenizer: Any, template: str) -> list[list[int]]:
    """Return the ids of a template without a caption and with the shortest one: some tokenizers end no empty text."""
    texts = [template.replace("{caption}", caption) for caption in ("", "a")]
    ids: list[list[int]] = tokenizer(texts, verbose=False)["input_ids"]
    return ids


def _held(tokenizer: Any, caption: str, ids: Any, control: list[str], meant: set[int], usual: int) -> str | None:
    """Return a control token that a caption spells, as it stands or as the tokenizer normalises it; else None."""
    if (held := next((token for token in control if token in caption), None)) is not None:
        return held
    meant = meant - {getattr(tokenizer, "unk_token_id", None)}  # it also stands for unknown letters
    if _count(meant, ids) <= usual:
        return None
    return str(tokenizer.convert_ids_to_tokens(next(i for i in reversed(ids) if i in meant)))


def _meant_ids(tokenizer: Any, control: list[str]) -> set[int]:
    """Return the ids of control tokens, without those that a text may hold: for unknown letters, and words that pad."""
    if not control:
        return set()
    harmless = {tokenizer.unk_token, tokenizer.pad_token} - {tokenizer.bos_token, tokenizer.eos_token}
    return {tokenizer.convert_tokens_to_ids(token) for token in control if token not in harmless}


def _count(meant: set[int], ids: list[int]) -> int:
    """Return how many of a text's ids are control tokens'."""
    return sum(i in meant for i in ids)


def control_tokens(tokenizer: Any) -> list[str]:
    """Return the tokens that a tokenizer finds in a text before all others, and that mean more than their letters.

    The tokens in its chat template are among them, for not every tokenizer calls them special.
    """
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    chat = getattr(tokenizer, "chat_template", None) or ""
    chat = chat if isinstance(chat, str) else " ".join(map(str, chat.values()))  # several templates, by name
    meant = (str(token) for token in added if token.special or (str(token).strip() and str(token) in chat))
    return sorted({*getattr(tokenizer, "all_special_tokens", ()), *meant})


def _checked(caption: str, tokens: Tokens, vocabulary: int) -> Tokens | BadCaption:
    if not tokens.ids:
        return BadCaption("no_token", f"caption {caption!r} has no token; expected text, or append_eos=True")
    if (largest := max(tokens.ids)) >= vocabulary:
        expected = f"expected ids below {vocabulary}, the LLM's vocabulary"
        return BadCaption("no_embedding", f"caption {caption!r}: the tokenizer gives id {largest}; {expected}")
    return tokens


def _cut(ids: list[int], room: int, kept: int) -> list[int]:
    """Return the ids cut to `room`. What is cut is the caption: the last `kept` tokens are the template's."""
    kept = min(kept, room)
    return ids[: room - kept] + ids[len(ids) - kept :]


def _kept(tokenizer: Any, template: str, caption: str, ids: list[int], split: bool) -> int:
    """Return how many of a text's last tokens hold what the template puts after the caption; see `caption_span`.

    In its place it need not fall into the tokens that it has alone: letters join with the caption's. A tokenizer that
    cannot say which letters a token is of is taken at what it makes of them alone.
    """
    before, _, after = template.partition("{caption}")
    if not after or not getattr(tokenizer, "is_fast", False):
        return count_alone(tokenizer, after, ids)
    start = len(before) + len(caption)
    return sum(end > start for _, end in letters(tokenizer, f"{before}{caption}{after}", split)[: len(ids)])


def padding_id(tokenizer: Any) -> int:
    """Return the id that fills a batch on the right, where no token ever sees it.

    Raises:
        ValueError: the tokenizer has no pad token.
    """
    if tokenizer.pad_token_id is None:
        raise ValueError(
            "the tokenizer has no pad token; set one, as in tokenizer.pad_token = tokenizer.eos_token: padding never "
            "reaches an encoding"
        )
    return int(tokenizer.pad_token_id)
