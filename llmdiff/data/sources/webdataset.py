"""WebDataset shards: tar files whose members of one key are a sample, read as they lie and never extracted."""

from __future__ import annotations

import tarfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple

import pyarrow as pa

from llmdiff.data.rejects import BadRow
from llmdiff.data.remote import DataPath, RemotePath
from llmdiff.data.sources.columns import KNOWN, ColumnError, Columns
from llmdiff.data.sources.img2dataset import failed_rows
from llmdiff.data.sources.kinds import PICTURES, TEXTS, kind_of
from llmdiff.data.sources.opening import arrow_source
from llmdiff.data.sources.records import json_record
from llmdiff.data.sources.rows import Row, checked, hash_file, pairs, text

MAX_BYTES = 64 * 1024**2
"""A larger member is refused unread: a sparse one may claim any size."""
PACKINGS = {".tgz": "gzip", ".tar.gz": "gzip", ".tar.zst": "zstd", ".tar.bz2": "bz2"}
NEIGHBOURS = "members of one key must follow one another in a tar"

Content = bytes | BadRow


class Member(NamedTuple):
    """A member that a sample may be made of."""

    key: str
    """Its name without the last ending."""
    kind: str
    """That ending, in lower case."""
    info: tarfile.TarInfo


@dataclass(frozen=True)
class TarShard:
    """A tar file, packed or not; its samples are in the order of their members."""

    file: DataPath
    name: str
    columns: Columns = KNOWN
    has_pictures: bool = True

    @property
    def is_remote(self) -> bool:
        """Whether counting its rows takes fetching all of it."""
        return isinstance(self.file, RemotePath)

    @property
    def is_counted(self) -> bool:
        """Whether its rows have been counted."""
        return "count" in self.__dict__

    def tell_count(self, rows: int) -> None:
        """Take another's word for how many rows there are in a file of this content."""
        self.__dict__["count"] = rows

    @cached_property
    def content_hash(self) -> str:
        pictures = [] if self._pictures == PICTURES else [f"*.{self._pictures[0]}"]
        return self.columns.named(hash_file(self.file), [*pictures, *self.columns.captions])

    @cached_property
    def count(self) -> int:
        return sum(1 for _ in pairs(self._records((*TEXTS, "json"), Counter())))

    @cached_property
    def unread(self) -> tuple[str, ...]:
        return self._told(self._passed_over())

    def rows(self) -> Iterator[tuple[int, Row | BadRow]]:
        """ValueError where the file is no tar or breaks off; see `SourceShard`.

        Read to the end, it leaves behind the count and what is unread, for which the file would be read again.
        """
        number, passed_over = -1, Counter[str]()
        for pair in pairs(self._records((*PICTURES, *TEXTS, "json"), passed_over)):
            number = pair.number
            yield number, checked(pair)
        self.__dict__.update(count=number + 1, unread=self._told(passed_over))

    def _records(self, read: tuple[str, ...], passed_over: Counter[str]) -> Iterator[tuple[Any, Any]]:
        """Each sample's picture and caption, of which members of some kinds are read; then what was not fetched."""
        with self._opened() as tar:
            for key, sample in _samples(tar, read, self._pictures, passed_over):
                yield _picture(key, sample, self._pictures), _caption(key, sample, self.columns, self.file)
        stem = self.file.name[: -len(kind_of(self.file))]
        yield from failed_rows(self.file.with_name(f"{stem}.parquet"))

    def _passed_over(self) -> Counter[str]:
        """How many members of each ending no sample is made of."""
        with self._opened() as tar:
            members = ((info, _member(info, self._pictures)) for info in tar if info.isreg())
            return Counter(_ending(info.name) for info, member in members if member is None)

    def _told(self, passed_over: Counter[str]) -> tuple[str, ...]:
        return tuple(f"{count} members *{ending}" for ending, count in sorted(passed_over.items()) if ending)

    @property
    def _pictures(self) -> tuple[str, ...]:
        """Endings of the members that are pictures: the one that is named, or all."""
        named = (self.columns.image or "").lower().removeprefix(".")
        return (named,) if named in PICTURES else PICTURES

    @contextmanager
    def _opened(self) -> Iterator[tarfile.TarFile]:
        """The tar, to be read from its beginning to its end, where it is checked."""
        packing = PACKINGS.get(kind_of(self.file))
        try:
            if packing is None:
                with self.file.open("rb") as data, tarfile.open(fileobj=data, mode="r:") as tar:
                    yield tar
                    _check_end(tar)
            else:
                with pa.input_stream(arrow_source(self.file), compression=packing) as unpacked:
                    with tarfile.open(fileobj=unpacked, mode="r|") as tar:
                        yield tar
                        _check_end_of_stream(tar)
        except (ConnectionError, ColumnError):
            raise
        except (tarfile.TarError, pa.ArrowException, EOFError, OSError, ValueError) as error:
            raise ValueError(f"{self.file}: expected a tar file, found none or a damaged one: {error}") from error


def _member(info: tarfile.TarInfo, pictures: tuple[str, ...]) -> Member | None:
    """A regular file as a part of a sample; None where it is none. Names are never used as paths."""
    stem, _, kind = info.name.rpartition(".")
    base = stem.rpartition("/")[2]
    if not info.isreg() or not base or base.startswith(".") or kind.lower() not in (*pictures, *TEXTS, "json"):
        return None
    return Member(stem, kind.lower(), info)


def _samples(
    tar: tarfile.TarFile, read: tuple[str, ...], pictures: tuple[str, ...], passed_over: Counter[str]
) -> Iterator[tuple[str, dict[str, Content]]]:
    """Members of one key, as long as they follow one another.

    A key may hold dots. Of ``1.jpg``, ``1.seg.png`` and ``1.txt`` the second is a sample of its own, which does not
    part the other two. A second picture or text of a key begins another sample. Endings of no sample are counted.
    """
    open_: dict[str, dict[str, Content]] = {}
    for info in tar:
        if (member := _member(info, pictures)) is None:
            passed_over.update([_ending(info.name)] * info.isreg())
            continue
        for key in [key for key in open_ if not _related(key, member.key)]:
            yield key, open_.pop(key)
        sample = open_.setdefault(member.key, {})
        if member.kind in sample or (member.kind in pictures and any(kind in sample for kind in pictures)):
            yield member.key, sample
            sample = open_[member.key] = {}
        sample[member.kind] = _content(tar, member.info, member.kind in read)
    yield from open_.items()


def _related(key: str, other: str) -> bool:
    """Whether two keys may be of one sample: the same, or one is the other with more endings."""
    return key == other or key.startswith(f"{other}.") or other.startswith(f"{key}.")


def _content(tar: tarfile.TarFile, info: tarfile.TarInfo, read: bool) -> Content:
    if not read:
        return b""
    if info.size > MAX_BYTES:
        found = f"{info.name!r} of {info.size} bytes"
        return BadRow("member_too_large", f"expected at most {MAX_BYTES} bytes, found {found}")
    file = tar.extractfile(info)
    assert file is not None  # it is a regular file
    return file.read()


def _picture(key: str, sample: dict[str, Content], pictures: tuple[str, ...]) -> Content:
    found = next((sample[kind] for kind in pictures if kind in sample), None)
    return (
        BadRow("no_image", f"expected a picture of key {key!r}, found none: {NEIGHBOURS}") if found is None else found
    )


def _caption(key: str, sample: dict[str, Content], columns: Columns, file: DataPath) -> Any:
    """The text member's, or the JSON member's: text, a list of texts, None, or why it is none of them."""
    kinds = {kind: partial(_content_of, sample[kind], kind) for kind in (*TEXTS, "json") if kind in sample}
    if not kinds:
        return BadRow("no_caption", f"expected a text of key {key!r}, found none: {NEIGHBOURS}")
    return columns.caption_beside(f"{file}, key {key!r}", kinds)


def _content_of(found: Content, kind: str) -> Any:
    """A text member's text, a JSON member's object; or why it is none."""
    if isinstance(found, BadRow):
        return found
    try:
        return json_record(found) if kind == "json" else text(found).strip()
    except BadRow as bad:
        return bad


def _ending(name: str) -> str:
    """The last ending of a member's name; none for hidden files and those without one."""
    base = name.rpartition("/")[2]
    return "" if base.startswith(".") or "." not in base else f".{base.rpartition('.')[2]}"


def _check_end(tar: tarfile.TarFile) -> None:
    """ValueError where the headers end before the file does: `tarfile` takes a damaged one for the end."""
    assert tar.fileobj is not None
    tar.fileobj.seek(tar.offset)
    if tar.fileobj.read(tarfile.BLOCKSIZE).strip(b"\0"):
        raise ValueError(f"no header at byte {tar.offset}")


def _check_end_of_stream(tar: tarfile.TarFile) -> None:
    """The same of a stream, of which the block in question is read already: the one after it is looked at."""
    assert tar.fileobj is not None
    if tar.fileobj.read(tarfile.BLOCKSIZE).strip(b"\0"):
        raise ValueError(f"no header at byte {tar.offset}")
