"""Preview what encoding would make of the first rows of data: decode pictures, without a model and a store."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice

from llmdiff.data.buckets import Buckets
from llmdiff.data.encode.reading import BYTES_AT_ONCE, ROWS_AT_ONCE, bytes_of, cores
from llmdiff.data.images import Crop, load_image
from llmdiff.data.in_order import in_order
from llmdiff.data.rejects import BadRow, printable
from llmdiff.data.remote.http import without_secrets
from llmdiff.data.sources import Row, SourceShard, Url

ROWS, FIRST, EXAMPLES = 1000, 5, 10
"""Number of rows that are looked at, of rows that are shown as read, and of rejects that are spelled out."""


@dataclass(kw_only=True)
class SeenRow:
    """A row as it would be read."""

    shard: str
    row: int
    """Number of the row in the file, from 0."""
    caption: str | None = None
    picture: str | None = None
    """The picture's size and what is kept of it, or its URL; None where there is no usable picture."""
    refused: str | None = None
    """Reason why the row would be a reject."""


@dataclass(kw_only=True)
class Preview:
    """What the first rows of some shards hold."""

    rows: int = 0
    """Rows looked at."""
    rejected: Counter[str] = field(default_factory=Counter)
    """Number of rows that would be rejects, by reason."""
    examples: list[str] = field(default_factory=list)
    """File, row, reason and finding of the first of these rejects."""
    first: list[SeenRow] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)
    """Captions of the rows that can be used."""
    decoded: int = 0
    """Pictures that were decoded, or that can't be."""
    behind_urls: int = 0
    """Pictures that a run would download; they were not asked for."""
    unread: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Columns and files that no row is made of, by shard."""
    unreadable: dict[str, str] = field(default_factory=dict)
    """Shards that can't be read to the end of these rows, and why."""
    seconds: float = 0.0

    @property
    def decode_rate(self) -> float:
        """Pictures a second that this machine reads and decodes; 0 where there were none."""
        return self.decoded / self.seconds if self.decoded else 0.0


def preview(
    shards: Iterable[SourceShard], size: int, min_side: int, rows: int = ROWS, buckets: Buckets | None = None
) -> Preview:
    """Look at the first rows of some shards, as `encode_shard` would read them; nothing is downloaded.

    Args:
        shards: readable or not.
        size: side of the square that would be kept of a picture, in pixels.
        min_side: pictures whose shorter side has fewer pixels would be refused.
        rows: how many rows are looked at.
        buckets: the sizes that a picture would be fitted to, in place of the square.
    """
    found, start = Preview(), time.perf_counter()
    with ThreadPoolExecutor(cores(), "decode") as pool:

        def look(item: tuple[SourceShard, int, Row | BadRow]) -> Future[str | BadRow | None]:
            return pool.submit(_look, item[2], size, min_side, buckets)

        first = islice(_rows(shards, found), rows)
        in_turn = in_order(look, first, ROWS_AT_ONCE, lambda item: bytes_of(item[2]), BYTES_AT_ONCE)
        for (shard, number, row), picture in in_turn:
            _add(found, shard, number, row, picture)
    found.seconds = time.perf_counter() - start
    return found


def _rows(shards: Iterable[SourceShard], found: Preview) -> Iterator[tuple[SourceShard, int, Row | BadRow]]:
    for shard in shards:
        try:
            for number, row in shard.rows():
                yield shard, number, row
            found.unread[shard.name] = shard.unread
        except ValueError as error:
            found.unreadable[shard.name] = printable(str(error))


def _look(row: Row | BadRow, size: int, min_side: int, buckets: Buckets | None) -> str | BadRow | None:
    """Return in words what is kept of a row's picture, or why it can't be used; None where the row holds no picture."""
    if isinstance(row, BadRow) or not isinstance(row.image, bytes):
        return None
    try:
        pixels, crop = load_image(row.image, size, min_side=min_side, buckets=buckets)
    except BadRow as bad:
        return BadRow(bad.reason, row.place + bad.detail)
    return _kept(crop, *pixels.shape[1::-1])


def _kept(crop: Crop, width: int, height: int) -> str:
    """Return in words what is kept of a picture at a width and a height."""
    scale = max(width / crop.width, height / crop.height)
    kept = f"{round(width / scale)}x{round(height / scale)}"
    return f"{crop.width}x{crop.height} pixels, of which {kept} become {width}x{height}"


def _add(found: Preview, shard: SourceShard, number: int, row: Row | BadRow, picture: str | BadRow | None) -> None:
    """Count a row, and show it where it is one of the first."""
    found.rows += 1
    found.decoded += picture is not None
    seen = SeenRow(shard=shard.name, row=number)
    bad = row if isinstance(row, BadRow) else picture if isinstance(picture, BadRow) else None
    if bad is not None:
        found.rejected[bad.reason] += 1
        seen.refused = str(bad)
        if len(found.examples) < EXAMPLES:
            found.examples.append(f"{shard.name} row {number}: {bad}")
    if isinstance(row, Row):
        seen.caption = row.caption
        if bad is None:
            found.captions.append(row.caption)
        if isinstance(row.image, Url):
            found.behind_urls += 1
            seen.picture = f"at {without_secrets(row.image)}"
    if isinstance(picture, str):
        seen.picture = picture
    if len(found.first) < FIRST:
        found.first.append(seen)
