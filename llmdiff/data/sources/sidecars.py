"""Folders of pictures with a caption beside each: ``1.png`` and ``1.txt``, ``1.caption`` or ``1.json``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from llmdiff.data.rejects import BadRow
from llmdiff.data.sources.img2dataset import failed_rows
from llmdiff.data.sources.kinds import TEXTS, is_picture, is_text
from llmdiff.data.sources.records import as_utf8, json_record
from llmdiff.data.sources.rows import CAPTION_COLUMNS, Row, checked, first_cell, hash_rows, pairs, read_inside, text
from llmdiff.data.sources.text_tables import ROWS_PER_SHARD


@dataclass(frozen=True)
class SidecarShard:
    """Some pictures of a folder, and captions that lack theirs; ordered by name."""

    folder: Path
    name: str
    samples: tuple[tuple[str | None, str | None], ...] = field(repr=False)
    """Names of each sample's picture and of the file of its caption."""
    failed: tuple[tuple[BadRow, Any], ...] = field(default=(), repr=False)
    """Rows of img2dataset's list whose picture it did not get."""
    has_pictures: bool = True
    unread: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()

    @cached_property
    def content_hash(self) -> str:
        return hash_rows(self.rows())

    @cached_property
    def count(self) -> int:
        return sum(1 for _ in pairs((None, self._caption(caption)) for _, caption in self.samples)) + len(self.failed)

    def rows(self) -> Iterator[tuple[int, Row | BadRow]]:
        """See `SourceShard`."""
        for pair in pairs(self._records()):
            yield pair.number, checked(pair)

    def _records(self) -> Iterator[tuple[Any, Any]]:
        for picture, caption in self.samples:
            yield self._picture(picture, caption), self._caption(caption, picture)
        yield from self.failed

    def _picture(self, name: str | None, caption: str | None) -> bytes | BadRow:
        if name is None:
            return BadRow("no_image", f"expected a picture beside {caption}, found none of its name")
        try:
            return read_inside(self.folder, name)
        except BadRow as bad:
            return bad

    def _caption(self, name: str | None, picture: str | None = None) -> Any:
        """What a caption's file says: text, of JSON a text or a list of texts; or why it says nothing."""
        if name is None:
            kinds = ", ".join(f".{kind}" for kind in (*TEXTS, "json"))
            return BadRow("no_caption", f"expected a caption beside {picture}, in a file of {kinds}, found none")
        try:
            data = read_inside(self.folder, name)
            if not name.lower().endswith(".json"):
                return text(as_utf8(data, Path(name))).strip()
            return first_cell(json_record(as_utf8(data, Path(name))), CAPTION_COLUMNS)
        except BadRow as bad:
            return BadRow("no_caption" if bad.reason == "no_image" else bad.reason, f"{name}: {bad.detail}")
        except ValueError as error:
            return BadRow("not_utf8", str(error))


def sidecar_shards(folder: Path, name: str, samples_per_shard: int = ROWS_PER_SHARD) -> Iterator[SidecarShard]:
    """Cut a folder's own pictures, and captions without one, into shards of at most so many samples.

    A caption in text goes before one in JSON of the same name, in which img2dataset leaves more facts.
    """
    found = _samples(folder)
    failed = tuple(failed_rows(folder.with_suffix(".parquet"))) if folder.suffix == "" else ()
    for first in range(0, max(1, len(found)), samples_per_shard):
        part = tuple(found[first : first + samples_per_shard])
        last = first + samples_per_shard >= len(found)
        rows = f"[{first}:{first + len(part)}]" if len(found) > samples_per_shard else ""
        yield SidecarShard(folder, f"{name}/{rows}", part, failed if last else ())


def _samples(folder: Path) -> list[tuple[str | None, str | None]]:
    """Pictures with their captions' files, and captions' files without a picture, by name."""
    names = sorted(file.name for file in folder.iterdir() if file.name[0] != "." and not file.is_dir())
    pictures = [name for name in names if is_picture(name)]
    captions = captions_by_stem(names)
    stems = {Path(name).stem for name in pictures}
    alone = [(None, name) for stem, name in captions.items() if stem not in stems and is_text(name)]
    return sorted(
        [*((name, captions.get(Path(name).stem)) for name in pictures), *alone], key=lambda s: s[0] or s[1] or ""
    )


def captions_by_stem(names: Iterable[str]) -> dict[str, str]:
    """Return the files that captions are read from, by their names without an ending: one of those that share it."""
    captions: dict[str, str] = {}
    for ending in ("json", *reversed(TEXTS)):  # the later ones go before
        captions |= {Path(name).stem: name for name in names if name.lower().endswith(f".{ending}")}
    return captions
