"""The counts of a shard's rows, by what became of them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(kw_only=True)
class ShardReport:
    """What became of a shard's rows: ``rows == known + samples + sum(rejected.values())``."""

    source: str
    """The shard's name."""
    source_hash: str = ""
    """Hash of its content."""
    rows: int = 0
    """Rows in it."""
    known: int = 0
    """Rows that needed no work: an earlier run committed or rejected them, or a sample holds the same."""
    known_bad: int = 0
    """Those of `known` that an earlier run rejected."""
    repeated: int = 0
    """Those of `known` that this run found by what they hold: moved, or twice in the data."""
    samples: int = 0
    """Rows committed now."""
    rejected: Counter[str] = field(default_factory=Counter)
    """Rows refused now, by reason."""
    examples: list[str] = field(default_factory=list)
    """The first few rows refused now: file, row, reason, what was found."""
    unread: tuple[str, ...] = ()
    """Columns, or endings of a tar's members, that no row is made of; empty where the shard was not read."""
    captions: int = 0
    """Captions that went through the text encoder; the other samples' were in the store, or twice in the shard."""
    tokens: int = 0
    """Tokens of their encodings."""
    latents: int = 0
    """Pictures that went through the autoencoder."""
    truncated: int = 0
    """Captions cut to the token limit."""
    seconds: float = 0.0
