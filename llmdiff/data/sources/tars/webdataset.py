"""WebDataset shards: tar files whose members of one key are a sample, read in order and never extracted."""

from __future__ import annotations

import tarfile
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import pyarrow as pa

from llmdiff.cached import cached_attribute
from llmdiff.data.rejects import BadRow, Reason
from llmdiff.data.remote import DataPath
from llmdiff.data.sources.columns import KNOWN, ColumnError, Columns
from llmdiff.data.sources.json_cells import json_record
from llmdiff.data.sources.kinds import PICTURES, TEXTS, kind_of
from llmdiff.data.sources.limits import MAX_BYTES, MAX_TEXT_BYTES, check_size
from llmdiff.data.sources.opening import arrow_source
from llmdiff.data.sources.rows import Row, checked, hash_file, pairs, text
from llmdiff.data.sources.streamed import StreamedFile
from llmdiff.data.sources.tars.img2dataset import failed_rows
from llmdiff.data.sources.tars.tar_files import CheckedInfo, EndingFile, infos
from llmdiff.data.sources.text_bytes import as_utf8

MAX_OPEN, MAX_OPEN_BYTES = 100, 4 * MAX_BYTES
"""Most samples that wait for further members, and most bytes that they hold."""
PACKINGS = {".tgz": "gzip", ".tar.gz": "gzip", ".tar.zst": "zstd", ".tar.bz2": "bz2"}
DAMAGED = (tarfile.TarError, pa.ArrowException, EOFError, OSError, ValueError, RecursionError)
"""Exceptions that reading raises where a file is no tar, or not a whole one."""
REST_AT_ONCE = 1024**2
"""Bytes that are checked at a time after a tar's end."""
NEIGHBOURS = "members of one key must follow one another in a tar"

Content = bytes | BadRow


class Member(NamedTuple):
    """A member that a sample may be made of."""

    key: str
    """The member's name without its last ending."""
    kind: str
    """The last ending, in lower case."""
    info: tarfile.TarInfo


@dataclass(frozen=True)
class TarShard(StreamedFile):
    """A tar file, packed or not; its samples are in the order of their members."""

    file: DataPath
    name: str
    columns: Columns = KNOWN
    has_pictures: bool = True
    columns_read: tuple[str, ...] = ()

    @cached_attribute
    def content_hash(self) -> str:
        pictures = [] if self.columns.endings == PICTURES else [f"*.{self.columns.endings[0]}"]
        lines = ["a caption a line"] if self.columns.lines else []
        return self.columns.named(hash_file(self.file), [*pictures, *self.columns.captions, *lines])

    @cached_attribute
    def count(self) -> int:
        return sum(1 for _ in pairs(self._records((*TEXTS, "json"), Counter())))

    def check_beginning(self) -> None:
        """Raise ValueError where the file does not begin as a tar; what follows its first samples is not read."""
        with closing(self._records((), Counter())) as records:
            next(records, None)

    @cached_attribute
    def unread(self) -> tuple[str, ...]:
        found: Counter[str] = Counter()
        with suppress(ValueError), self._opened() as tar:  # a damaged tar is read as far as it can be
            members = (info for info in infos(tar) if not info.isdir())
            found.update(_kind(info.name) for info in members if _member(info, self.columns.endings) is None)
        return _counted(found)

    def rows(self) -> Iterator[tuple[int, Row | BadRow]]:
        """See `SourceShard`; raise ValueError where the file is no tar. A truncated one ends in a row that says so.

        At the end this sets `count` and `unread`, for which the file would have to be read again.
        """
        number, passed_over = -1, Counter[str]()
        for pair in pairs(self._records((*PICTURES, *TEXTS, "json"), passed_over)):
            number = pair.number
            yield number, checked(pair)
        self.__dict__.update(count=number + 1, unread=_counted(passed_over))

    def _records(self, read: tuple[str, ...], passed_over: Counter[str]) -> Generator[tuple[Any, Any, str], None, None]:
        """Yield each sample's picture, caption and key, from members of `read` kinds; then the rows not downloaded."""
        samples = 0
        try:
            with self._opened() as tar:
                for key, sample in _samples(tar, read, self.columns.endings, passed_over):
                    samples += 1
                    image = _picture(key, sample, self.columns.endings)
                    yield image, _caption(key, sample, self.columns, self.file), key
        except ColumnError:
            raise
        except ValueError as error:
            if not samples:
                raise
            rest = BadRow("broken_tar", f"what follows the first {samples} samples cannot be read: {error.__cause__}")
            yield rest, rest, ""
        stem = self.file.name[: -len(kind_of(self.file))]
        yield from ((*failed, "") for failed in failed_rows(self.file.with_name(f"{stem}.parquet")))

    @contextmanager
    def _opened(self) -> Iterator[tarfile.TarFile]:
        """Open the tar for a single pass; check it at its end."""
        packing = PACKINGS.get(kind_of(self.file))
        try:
            if packing is None:
                with self.file.open("rb") as data, tarfile.open(fileobj=data, mode="r:", tarinfo=CheckedInfo) as tar:
                    yield tar
                    _check_end(tar)
            else:
                with pa.input_stream(arrow_source(self.file), compression=packing) as unpacked:
                    data_to_end: Any = EndingFile(unpacked)
                    with tarfile.open(fileobj=data_to_end, mode="r|", tarinfo=CheckedInfo) as tar:
                        yield tar
                        _check_end_of_stream(tar)
        except (ConnectionError, ColumnError):
            raise
        except DAMAGED as error:
            raise ValueError(f"{self.file}: expected a tar file, found none or a damaged one: {error}") from error


def _member(info: tarfile.TarInfo, pictures: tuple[str, ...]) -> Member | None:
    """Return a tar's member as a part of a sample; None where it is none. Names are never used as paths."""
    stem, _, kind = info.name.rpartition(".")
    base = stem.rpartition("/")[2]
    if info.isdir() or not base or base.startswith(".") or kind.lower() not in (*pictures, *TEXTS, "json"):
        return None
    return Member(stem, kind.lower(), info)


def _samples(
    tar: tarfile.TarFile, read: tuple[str, ...], pictures: tuple[str, ...], passed_over: Counter[str]
) -> Iterator[tuple[str, dict[str, Content]]]:
    """Yield each sample's key and its members, which follow one another in the tar.

    A key may hold dots: among ``1.jpg``, ``1.seg.png`` and ``1.txt`` the second is a sample of its own, which does not
    separate the others. A second picture or text of a key begins a new sample. Members of no sample are counted.
    """
    open_: dict[str, dict[str, Content]] = {}
    try:
        for info in infos(tar):
            if (member := _member(info, pictures)) is None:
                passed_over.update([_kind(info.name)] * (not info.isdir()))
                continue
            member = _of_picture(member, open_)
            for key in [key for key in open_ if not _related(key, member.key)]:
                yield key, open_.pop(key)
            sample = open_.setdefault(member.key, {})
            if member.kind in sample or (member.kind in pictures and any(kind in sample for kind in pictures)):
                yield member.key, sample
                sample = open_[member.key] = {}
            sample[member.kind] = _content(tar, member, member.kind in read)
            while len(open_) > MAX_OPEN or (len(open_) > 1 and _held(open_) > MAX_OPEN_BYTES):
                first = next(iter(open_))
                yield first, open_.pop(first)
    except ConnectionError:
        raise
    except DAMAGED:
        yield from open_.items()
        raise
    yield from open_.items()


def _of_picture(member: Member, samples: dict[str, dict[str, Content]]) -> Member:
    """Return a text with its picture's key, if it has the picture's whole name: ``1.png.txt`` gets key ``1``."""
    key, _, ending = member.key.rpartition(".")
    is_called = ending.lower() in PICTURES and ending.lower() in samples.get(key, {})
    return member._replace(key=key) if is_called and member.kind in (*TEXTS, "json") else member


def _held(samples: dict[str, dict[str, Content]]) -> int:
    """Return how many bytes some samples hold."""
    return sum(len(found) for sample in samples.values() for found in sample.values() if isinstance(found, bytes))


def _related(key: str, other: str) -> bool:
    """Return whether two keys may belong to one sample: they are equal, or one has more endings than the other."""
    return key == other or key.startswith(f"{other}.") or other.startswith(f"{key}.")


def _content(tar: tarfile.TarFile, member: Member, read: bool) -> Content:
    """Return a member's bytes, empty unless `read`; a BadRow where it is no file, too large or truncated."""
    info = member.info
    if not info.isreg():
        reason: Reason = "no_image" if member.kind in PICTURES else "no_caption"
        return BadRow(reason, f"{info.name!r}: expected a file, found a link or a device, which is not followed")
    if not read:
        return b""
    try:
        check_size(info.size, repr(info.name), MAX_BYTES if member.kind in PICTURES else MAX_TEXT_BYTES)
    except BadRow as bad:  # a sparse member may claim any size
        return bad
    file = tar.extractfile(info)
    assert file is not None  # it is a regular file
    try:
        return file.read()
    except ConnectionError:
        raise
    except DAMAGED as error:  # the search for the next member fails in the same way
        return BadRow("broken_tar", f"{info.name!r}: expected {info.size} bytes: {error}")


def _picture(key: str, sample: dict[str, Content], pictures: tuple[str, ...]) -> Content:
    found = next((sample[kind] for kind in pictures if kind in sample), None)
    return (
        BadRow("no_image", f"expected a picture of key {key!r}, found none: {NEIGHBOURS}") if found is None else found
    )


def _caption(key: str, sample: dict[str, Content], columns: Columns, file: DataPath) -> Any:
    """Return a sample's caption from its text or JSON members: a text, a list of texts, None, or a BadRow."""
    kinds = {kind: partial(_content_of, sample[kind], f"{key}.{kind}") for kind in (*TEXTS, "json") if kind in sample}
    if not kinds:
        return BadRow("no_caption", f"expected a text of key {key!r}, found none: {NEIGHBOURS}")
    return columns.caption_beside(file, f"key {key!r}", kinds)


def _content_of(found: Content, name: str) -> Any:
    """Return a text member's text or a JSON member's object; a BadRow with the member's name where it is damaged."""
    if isinstance(found, BadRow):
        return found
    try:
        data = as_utf8(found, name)
        return json_record(data) if name.endswith(".json") else text(data).strip()
    except BadRow as bad:
        return BadRow(bad.reason, f"{name}: {bad.detail}")
    except ValueError as error:
        return BadRow("not_utf8", str(error))


def _counted(members: Counter[str]) -> tuple[str, ...]:
    return tuple(f"{count} members {kind}" for kind, count in sorted(members.items()))


def _kind(name: str) -> str:
    """Return the words in which unread members are counted: by their last ending, as without one, or as hidden."""
    base = name.rpartition("/")[2]
    if base.startswith("."):
        return "that are hidden"
    return f"*.{base.rpartition('.')[2]}" if "." in base else "without an ending"


def _check_end(tar: tarfile.TarFile) -> None:
    """Raise ValueError where the headers end before the file: `tarfile` takes a damaged header for the end.

    It also takes the end of the first of several concatenated tars for it.
    """
    assert tar.fileobj is not None
    tar.fileobj.seek(tar.offset)
    _check_rest(tar.fileobj.read, tar.offset)


def _check_end_of_stream(tar: tarfile.TarFile) -> None:
    """Raise ValueError as `_check_end`, for a stream: its last block is read already, so the check begins after it."""
    assert tar.fileobj is not None
    _check_rest(tar.fileobj.read, tar.offset + tarfile.BLOCKSIZE)


def _check_rest(read: Callable[[int], bytes], start: int) -> None:
    while rest := read(REST_AT_ONCE):
        if rest.strip(b"\0"):
            at = start + len(rest) - len(rest.lstrip(b"\0"))
            raise ValueError(f"no header at byte {start}, and more from byte {at} on: is it several tars in one file?")
        start += len(rest)
