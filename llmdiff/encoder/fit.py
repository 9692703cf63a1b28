"""Check that settings fit an LLM's depth and tokenizer, as far as can be told before weights are read."""

from __future__ import annotations

from typing import Any

from llmdiff.encoder.config import EncoderConfig
from llmdiff.encoder.readings import Reading
from llmdiff.encoder.schedules import resolve_schedule
from llmdiff.encoder.tokens import check_room, padding_id

POSITIONS = ("max_position_embeddings", "max_seq_len")
"""Names of the number of positions in configurations; the second is MPT's."""


def check_depth(config: Any, blocks: int, settings: EncoderConfig) -> None:
    """Raise ValueError where an LLM has too few positions or blocks for the settings, or not as many as `g` or `h`.

    Args:
        config: transformers' configuration of the text model.
        blocks: number of the model's blocks.
        settings: the encoder's settings.
    """
    check_positions(config, settings.max_tokens)
    reading = Reading.parse(settings.reading).of(blocks)
    if reading.takes_bands and settings.bands > blocks:
        raise ValueError(f"bands is {settings.bands}; expected at most {blocks}, the LLM's blocks")
    for name, schedule in (("g", settings.g), ("h", settings.h)):
        try:
            resolve_schedule(schedule, blocks)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None


def check_positions(config: Any, max_tokens: int) -> None:
    """Raise ValueError for more tokens than a configuration has positions; one that names no number has no limit."""
    name = next((name for name in POSITIONS if getattr(config, name, None) is not None), None)
    if name is not None and max_tokens > (positions := int(getattr(config, name))):
        expected = f"expected at most {positions}, the positions ({name}) it was made for"
        raise ValueError(f"max_tokens is {max_tokens}; {expected}")


def check_tokenizer(tokenizer: Any, settings: EncoderConfig) -> None:
    """Raise ValueError for a tokenizer without EOS or pad token, or a template that leaves no room for a caption."""
    if settings.append_eos and tokenizer.eos_token_id is None:
        raise ValueError("the tokenizer has no EOS token; set one, or append_eos=False")
    padding_id(tokenizer)
    check_room(tokenizer, settings)
