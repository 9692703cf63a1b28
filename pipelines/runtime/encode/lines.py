"""Lines about a run's data before it starts: shards, rows, columns, and what is not read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from llmdiff.data.rejects import printable
from llmdiff.data.sources import SourceShard, expected_row_count


def found_lines(shards: Sequence[SourceShard], passed_over: dict[str, str], shown: int) -> list[str]:
    """Return what was found, a fact a line; of what is not read, `shown` one by one and the others by their reasons.

    A shard that cannot be read is no more than counted here: it says why in its turn.
    """
    rows: Counter[bool] = Counter()
    columns: Counter[tuple[str, ...]] = Counter()
    lines, with_pictures, uncounted = [], 0, 0
    for shard in shards:
        try:
            row_count = expected_row_count(shard)
            rows[shard.has_pictures] += row_count or 0
            uncounted += row_count is None
            with_pictures += shard.has_pictures
            columns[shard.columns_read] += 1
            if row_count == 0 and not shard.unread:
                passed_over = {**passed_over, shard.name: "it has no rows"}
        except ValueError:
            continue
    lines.append(
        f"found {len(shards)} shards, {with_pictures} of them with pictures: {rows[True]} rows of a picture and a "
        f"caption, {rows[False]} captions alone"
    )
    lines += [f"not counted before they are read: rows of {uncounted} shards"] * bool(uncounted)
    lines += [f"columns of {count} shards: {printable(', '.join(names))}" for names, count in columns.items() if names]
    unread = list(passed_over.items())
    lines += [f"not read: {name}: {why}" for name, why in unread[:shown]]
    others = Counter(why for _, why in unread[shown:])
    if others:
        counted = "; ".join(f"{count} times {why}" for why, count in others.most_common())
        lines.append(f"not read: {len(unread) - shown} more: {counted}")
    return lines
