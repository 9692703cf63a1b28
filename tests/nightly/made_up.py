"""Strategies for what nobody should have written: bytes and JSON that begin as good ones, and numbers at the edges."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

EDGES = st.sampled_from([0, 1, -1, 2**15, 2**31 - 1, 2**31, 2**32, -(2**31), 2**53, 2**62, 2**63 - 1, -(2**63), 10**30])
NUMBERS = st.one_of(EDGES, st.integers(), st.floats())
WORDS = st.sampled_from(
    [
        b"\0" * 16,
        b"\xff" * 8,
        b"\x7f" * 4,
        b"\x80" + b"\0" * 10 + b"\1",
        b"77777777777\0",
        b"-1",
        b"99999999999",
        b"\n",
        b"[" * 50,
    ]
)
"""Bytes that lengths and counts are made of, in one format or another."""


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """Some bytes of a good file changed, cut, added, repeated or moved."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 8))):
        first = draw(st.integers(0, len(data)))
        last = min(len(data), first + draw(st.integers(0, 600)))
        how = draw(st.sampled_from(["flip", "word", "cut", "add", "repeat", "move", "end"]))
        if how == "flip" and first < len(data):
            data[first] ^= 1 << draw(st.integers(0, 7))
        elif how == "word":
            word = draw(WORDS)
            data[first : first + len(word)] = word
        elif how == "cut":
            del data[first:last]
        elif how == "add":
            data[first:first] = draw(st.binary(max_size=64))
        elif how == "repeat":
            data[first:first] = data[first:last] * draw(st.integers(1, 40))
        elif how == "move":
            part = data[first:last]
            del data[first:last]
            at = draw(st.integers(0, len(data)))
            data[at:at] = part
        else:
            del data[first:]
    return bytes(data)


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=20), st.sampled_from(["../x", "/etc", "a" * 5000])),
    lambda inner: st.one_of(st.lists(inner, max_size=5), st.dictionaries(st.text(max_size=8), inner, max_size=5)),
    max_leaves=12,
)


@st.composite
def changed(draw: st.DrawFn, good: Any) -> Any:
    """A good JSON value with some of what is in it replaced, added or left out."""

    def change(value: Any, depth: int) -> Any:
        if draw(st.integers(0, 9)) == 0:
            return draw(JSON)
        if isinstance(value, dict):
            kept = {name: change(inner, depth + 1) for name, inner in value.items() if draw(st.integers(0, 19))}
            return kept | (draw(st.dictionaries(st.text(max_size=8), JSON, max_size=2)) if depth == 0 else {})
        if isinstance(value, list):
            return [change(inner, depth + 1) for inner in value] * draw(st.sampled_from([0, 1, 1, 1, 1, 3]))
        return draw(NUMBERS) if isinstance(value, (int, float)) and draw(st.integers(0, 4)) == 0 else value

    return change(good, 0)


def refused_or(look: Callable[[], Any]) -> Any:
    """Return what a look at something gives; None where it is refused in words. Any other error is one of ours."""
    try:
        return look()
    except (ValueError, OSError) as error:
        said = str(error).strip()
    assert said
    return None
