"""Hashes of a column as numbers."""

from __future__ import annotations

from binascii import unhexlify
from contextlib import suppress

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.hashing import HASH_BYTES, content_hash

HASH = np.dtype((">u8", (2,)))
"""A hash as two numbers that sort as its bytes do."""
NIBBLES = np.full(256, 255, np.uint8)
NIBBLES[np.frombuffer(b"0123456789abcdef", np.uint8)] = np.arange(16)

NO_CAPITAL = np.uint64(0x2020202020202020)
"""Bits that digits and small letters have, eight of them, and capitals have not."""


def hash_numbers(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Return texts as numbers, `HASH` ``(n, 2)``: a hash's own bytes, another text's hash, zeros for null."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if pa.types.is_dictionary(array.type):
        known = np.concatenate([hash_numbers(array.dictionary.cast(pa.string())), np.zeros((1, 2), HASH.base)])
        return known[pc.fill_null(array.indices, len(known) - 1).to_numpy(zero_copy_only=False)]
    if pa.types.is_string(array.type) and (hashes := _hashes(array)) is not None:
        return hashes
    width = 2 * HASH_BYTES
    is_long = pc.fill_null(pc.equal(pc.binary_length(array), width), False).to_numpy(zero_copy_only=False)
    nibbles = NIBBLES[_letters(array.filter(pa.array(is_long)))].reshape(-1, width)
    found = np.zeros((len(array), HASH_BYTES), np.uint8)
    is_hash = is_long.copy()
    is_hash[is_long] = (nibbles != 255).all(axis=1)
    nibbles = nibbles[is_hash[is_long]]
    found[is_hash] = nibbles[:, 0::2] << 4 | nibbles[:, 1::2]
    for row in np.flatnonzero(pc.is_valid(array).to_numpy(zero_copy_only=False) & ~is_hash):
        digest = bytes.fromhex(content_hash(array[int(row)].as_py().encode()))
        found[row] = np.frombuffer(digest, np.uint8)
    return found.view(HASH.base)


def _hashes(texts: pa.Array) -> np.ndarray | None:
    """Return the numbers of texts that are hashes, all of them; None where some are not."""
    if not len(texts) or texts.null_count:
        return None
    _, offsets, data = texts.buffers()
    begins = np.frombuffer(offsets, np.int32, len(texts) + 1, 4 * texts.offset)
    if (np.diff(begins) != 2 * HASH_BYTES).any():
        return None
    eights = np.frombuffer(data, np.uint64, len(texts) * 2 * HASH_BYTES // 8, int(begins[0]))
    if np.bitwise_and.reduce(eights) & NO_CAPITAL != NO_CAPITAL:
        return None
    with suppress(ValueError):
        return np.frombuffer(unhexlify(eights.data), HASH.base).reshape(-1, 2)
    return None


def _letters(texts: pa.Array) -> np.ndarray:
    """Return the bytes of texts as long as hashes, uint8 ``(2 * HASH_BYTES * n,)``."""
    width = 2 * HASH_BYTES
    text = texts.cast(pa.binary(width))
    return np.frombuffer(text.buffers()[1] or b"", np.uint8, len(text) * width, text.offset * width)
