"""Names that an index gives of shards and of the arrays in them: they never lead out of the store."""

from __future__ import annotations

import re

from storage.io.paths import StorePath

SHARD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
ARRAY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(?:/[A-Za-z0-9][A-Za-z0-9._-]*)*")


def shard_folder(root: StorePath, shard: str) -> StorePath:
    """Return the folder of a shard in the store at `root`; ValueError where the name can be no shard's."""
    if not SHARD.fullmatch(shard):
        raise ValueError(f"{root}: expected the name of a shard, found {shard[:200]!r}: the index is damaged")
    return root / "shards" / shard


def array_folder(shard: StorePath, array: str) -> StorePath:
    """Return the folder of an array in a shard's; ValueError where the name can be no array's."""
    if not ARRAY.fullmatch(array):
        raise ValueError(f"{shard}: expected the name of an array, found {array[:200]!r}: the index is damaged")
    return shard / array
