"""Count, by kind, the files that no row is made of, so that nothing below the data's path is passed over in silence."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from llmdiff.data.rejects import printable
from llmdiff.data.remote import DataPath
from llmdiff.data.sources.file_names import spelled
from llmdiff.data.sources.kinds import is_picture, is_text, kind_of
from llmdiff.data.sources.rows import SourceShard
from llmdiff.data.sources.tables.columnar import ColumnarShard
from llmdiff.data.sources.tables.text_tables import TableShard

SHOWN = 3
"""Most pictures that a line names."""


@dataclass
class UnreadFiles:
    """Files below a path that are not read, by their ending and the reason."""

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)

    def add(self, files: Iterable[DataPath], why: str) -> None:
        """Count some files."""
        self.counts.update((f"*{printable(file.suffix.lower())}", why) for file in files)

    def hidden(self, name: str) -> None:
        """Count a hidden file, where it looks like data."""
        if is_picture(name) or is_text(name) or kind_of(name):
            self.counts[f".*{printable(Path(name).suffix.lower())}", "hidden"] += 1

    def unknown(self, files: Iterable[DataPath]) -> None:
        """Count those files of a folder whose kind is not read."""
        for file in files:
            if not (is_picture(file) or is_text(file) or kind_of(file)):
                suffix = printable(file.suffix.lower())
                self.counts[f"*{suffix}" if suffix else "names without an ending", "of no kind that is read"] += 1

    def lines(self) -> dict[str, str]:
        """Return for each ending how many files are not read, and why."""
        lines: dict[str, list[str]] = {}
        for (kind, why), count in sorted(self.counts.items()):
            lines.setdefault(kind, []).append(f"{count} files: {why}")
        return {kind: "; ".join(counted) for kind, counted in lines.items()}


def unnamed_pictures(pictures: dict[DataPath, list[str]], shards: Iterable[SourceShard]) -> dict[str, str]:
    """Return a line about the pictures that no row names, in folders whose pictures a table names.

    Args:
        pictures: names by folder; see `Listing`.
        shards: all shards of the data.
    """
    if not pictures:
        return {}
    named = {_place(path) for shard in shards for path in _named(shard)}
    here = ((folder, name) for folder, names in pictures.items() for name in names)
    left = [printable(name) for folder, name in here if _place(folder / name) not in named]
    examples = ", ".join(left[:SHOWN]) + ", …" * (len(left) > SHOWN)
    return {"pictures": f"{len(left)} that no row of the table beside them names: {examples}"} if left else {}


def _place(path: DataPath) -> str:
    """Return a normalised absolute path, the same for relative and absolute names of a file."""
    return os.path.normpath(Path.cwd() / str(path))


def _named(shard: SourceShard) -> Iterator[DataPath]:
    """Yield the pictures that a shard's rows name by path; none for a shard that can't be read."""
    try:
        if isinstance(shard, ColumnarShard):
            yield from (shard.file.parent / spelled(shard.file.parent, name) for name in shard.named_pictures())
        elif isinstance(shard, TableShard):
            yield from (shard.folder / spelled(shard.folder, name) for name in shard.named_pictures())
    except ValueError:
        return
