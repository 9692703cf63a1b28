"""Shards of folders of pictures with a caption beside each: ``1.png`` and ``1.txt``, ``1.caption`` or ``1.json``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from llmdiff.cached import cached_attribute
from llmdiff.data.lfs import FOUND, is_pointer
from llmdiff.data.rejects import BadRow
from llmdiff.data.remote import DataPath, RemotePath
from llmdiff.data.remote.parallel import each
from llmdiff.data.sources.columns import KNOWN, Columns
from llmdiff.data.sources.json_cells import json_record
from llmdiff.data.sources.kinds import TEXTS, ending_of, is_picture, is_text
from llmdiff.data.sources.remote_pictures import Named, hash_below
from llmdiff.data.sources.rows import Row, UnreadableShard, checked, hash_rows, pairs, read_inside, text
from llmdiff.data.sources.streamed import Streamed
from llmdiff.data.sources.tables.text_tables import ROWS_PER_SHARD
from llmdiff.data.sources.tars.img2dataset import failed_rows_of
from llmdiff.data.sources.text_bytes import as_utf8

CAPTIONS = (*TEXTS, "json")
"""Endings of the files that captions may be in."""
Sample = tuple[str | None, tuple[str, ...]]
"""Names of a picture and of the files beside it that its caption may be in."""


@dataclass(frozen=True)
class SidecarShard(Streamed):
    """Some pictures of a folder, and captions that lack their picture, ordered by name."""

    folder: DataPath
    name: str
    samples: tuple[Sample, ...] = field(repr=False)
    failed: tuple[tuple[BadRow, Any], ...] = field(default=(), repr=False)
    """Rows of img2dataset's list whose picture it could not download."""
    columns: Columns = KNOWN
    has_pictures: bool = True
    unread: tuple[str, ...] = ()
    columns_read: tuple[str, ...] = ()
    listed_hash: str | None = None
    """Hash of what a listing says of the files; None where only their bytes identify them."""

    @cached_attribute
    def content_hash(self) -> str:
        return self.listed_hash or hash_rows(self.rows())

    @property
    def is_streamed(self) -> bool:
        return self._is_remote and any(self._may_have_several(*sample) for sample in self.samples)

    def facts_hash(self) -> str | None:
        return self.listed_hash

    @cached_attribute
    def count(self) -> int:
        to_read = [sample for sample in self.samples if self._may_have_several(*sample)]
        captions = each(lambda sample: self._caption(*sample), to_read, self._is_remote)
        read = sum(1 for _ in pairs((None, caption) for caption in captions))
        return len(self.samples) - len(to_read) + read + len(self.failed)

    def rows(self) -> Iterator[tuple[int, Row | BadRow]]:
        """See `SourceShard`; at the end this sets `count`, for which the captions would have to be read again."""
        number = -1
        for pair in pairs(self._records()):
            number = pair.number
            yield number, checked(pair)
        self.tell_count(number + 1)

    @property
    def _is_remote(self) -> bool:
        return isinstance(self.folder, RemotePath)

    def _may_have_several(self, _: str | None, names: tuple[str, ...]) -> bool:
        """Return whether a sample may have several captions; a text without `columns.lines` is a single one."""
        is_one = not self.columns.captions and not self.columns.lines and any(map(is_text, names))
        return bool(names) and not is_one

    def _records(self) -> Iterator[tuple[Any, Any, str]]:
        def record(sample: Sample) -> tuple[Any, Any, str]:
            return self._picture(*sample), self._caption(*sample), sample[0] or sample[1][0]

        yield from each(record, self.samples, self._is_remote)
        yield from ((why, caption, "") for why, caption in self.failed)

    def _picture(self, name: str | None, captions: tuple[str, ...]) -> bytes | BadRow:
        if name is None:
            return BadRow("no_image", f"expected a picture beside {captions[0]}, found none of its name")
        try:
            return read_inside(self.folder, name)
        except BadRow as bad:
            return bad

    def _caption(self, picture: str | None, names: tuple[str, ...]) -> Any:
        """Return the caption in a picture's files: a text, or from JSON also a list of texts; or why there is none."""
        if not names:
            kinds = ", ".join(f".{kind}" for kind in CAPTIONS)
            return BadRow("no_caption", f"expected a caption beside {picture}, in a file of {kinds}, found none")
        files = {ending_of(name): partial(self._read, name) for name in names}
        return self.columns.caption_beside(self.folder, ", ".join(names), files)

    def _read(self, name: str) -> Any:
        """Return a text file's text or a JSON file's object; or why it can't be read."""
        try:
            data = read_inside(self.folder, name)
            if is_pointer(data):
                raise BadRow("no_caption", FOUND)
            data = as_utf8(data, name)
            return json_record(data) if ending_of(name) == "json" else text(data).strip()
        except BadRow as bad:
            return BadRow("no_caption" if bad.reason == "no_image" else bad.reason, f"{name}: {bad.detail}")
        except ValueError as error:
            return BadRow("not_utf8", str(error))


def sidecar_shards(
    folder: DataPath, name: str, columns: Columns = KNOWN, samples_per_shard: int = ROWS_PER_SHARD
) -> Iterator[SidecarShard | UnreadableShard]:
    """Cut a folder's own pictures, and captions without one, into shards of at most so many samples.

    Where a picture has two texts and neither is named, a single shard says so.
    """
    found = samples_in(folder, columns)
    try:
        for _, names in found:
            columns.check_beside(folder, names)
        failed = tuple(failed_rows_of(folder))
    except ValueError as error:
        yield UnreadableShard(f"{name}/", str(error))
        return
    for first in range(0, max(1, len(found)), samples_per_shard):
        part = tuple(found[first : first + samples_per_shard])
        last = first + samples_per_shard >= len(found)
        rows = f"[{first}:{first + len(part)}]" if len(found) > samples_per_shard else ""
        shard = SidecarShard(folder, f"{name}/{rows}", part, failed if last else (), columns)
        yield shard if not isinstance(folder, RemotePath) else replace(shard, listed_hash=_listed_hash(folder, shard))


def _listed_hash(folder: RemotePath, shard: SidecarShard) -> str | None:
    """Return a hash of a shard's files, as the folder's listing has them."""
    named = [Named(name) for picture, captions in shard.samples for name in (picture, *captions) if name is not None]
    return hash_below(folder, [*named, *(str(why) for why, _ in shard.failed), shard.columns.key])


def samples_in(folder: DataPath, columns: Columns = KNOWN) -> list[Sample]:
    """Return a folder's pictures with the files of their captions, and such files without a picture, by name."""
    files = (file for file in folder.iterdir() if file.name[0] != "." and not columns.leaves_out(file))
    return samples_of(file.name for file in files if not file.is_dir())


def samples_of(names: Iterable[str]) -> list[Sample]:
    """Return the samples of a folder whose files have these names; see `samples_in`."""
    names = sorted(names)
    pictures = [name for name in names if is_picture(name)]
    captions = _captions_by_stem(names)
    stems = caption_stems(pictures)
    alone: list[Sample] = [
        (None, tuple(files.values()))
        for stem, files in captions.items()
        if stem not in stems and any(map(is_text, files.values()))
    ]
    beside: list[Sample] = [(name, _beside(name, captions)) for name in pictures]
    return sorted([*beside, *alone], key=lambda sample: sample[0] or sample[1][0])


def caption_stems(pictures: Iterable[str]) -> set[str]:
    """Return the names, without ending, that files beside some pictures may have: ``1`` or ``1.png``."""
    return {stem for name in pictures for stem in (name, Path(name).stem)}


def _beside(picture: str, captions: dict[str, dict[str, str]]) -> tuple[str, ...]:
    """Return the files that may hold a picture's captions: texts before JSON, and one of each ending."""
    files = {**captions.get(picture, {}), **captions.get(Path(picture).stem, {})}
    return tuple(files[ending] for ending in CAPTIONS if ending in files)


def _captions_by_stem(names: list[str]) -> dict[str, dict[str, str]]:
    """Return the files that may hold captions, by name without ending and then by ending: texts before JSON."""
    captions: dict[str, dict[str, str]] = {}
    for ending in CAPTIONS:
        for name in names:
            if ending_of(name) == ending:
                captions.setdefault(Path(name).stem, {}).setdefault(ending, name)
    return captions
