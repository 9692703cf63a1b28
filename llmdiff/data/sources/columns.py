"""Choose the columns of a row's picture and its captions: the named ones, or else the known ones that exist."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from llmdiff.data.rejects import BadRow
from llmdiff.data.remote import DataPath
from llmdiff.data.sources.kinds import PICTURES, ending_of, is_picture, is_text
from llmdiff.data.sources.rows import (
    BYTES_COLUMNS,
    CAPTION_COLUMNS,
    IMAGE_COLUMNS,
    PATH_COLUMNS,
    URL_COLUMNS,
    column,
)

SAME_KIND = (PATH_COLUMNS[:3], BYTES_COLUMNS, PATH_COLUMNS[3:], URL_COLUMNS)
"""Known columns of pictures by kind. An earlier kind comes first, as pictures before URLs; within one, none does."""
CAPTION_OPTION, IMAGE_OPTION, LINES_OPTION = "--caption-column", "--image-column", "--caption-lines"
LINE_END = re.compile(r"\r\n|\n|\r")


class ColumnError(ValueError):
    """A file without the column that is asked for, or with several of which one must be named."""


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The chosen columns, by name in any case. In tars and beside pictures, names are file endings or keys of JSON."""

    captions: tuple[str, ...] = ()
    """Columns of captions, of which the first that a row fills counts; empty for the known one that is there."""
    every: bool = False
    """Whether every filled column of captions is a caption of the row."""
    image: str | None = None
    """Column of the pictures; None for the known one that is there."""
    lines: bool = field(default=False, repr=False)
    """Whether each line of a text beside a picture, or in a tar, is a caption. It is part of `key`."""

    @property
    def key(self) -> str:
        """The choice as hashes have it: options that came later are in it only where they are used."""
        return f"{self!r} by lines" if self.lines else repr(self)

    @property
    def endings(self) -> tuple[str, ...]:
        """Endings of the pictures in tars and folders: the one that is named, or all."""
        named = (self.image or "").lower().removeprefix(".")
        return (named,) if named in PICTURES else PICTURES

    def leaves_out(self, file: DataPath | str) -> bool:
        """Return whether a file is a picture of another ending than the one that is named."""
        return is_picture(file) and ending_of(file) not in self.endings

    def image_in(self, file: object, names: Sequence[str]) -> str | None:
        """Return the pictures' column, as it is written; None where there is none.

        ColumnError where the named one is not there, or two known ones of one kind are.
        """
        found = self.images(file, names)
        _check_images(file, found, self.image)
        return found[0] if found else None

    def captions_in(self, file: object, names: Sequence[str]) -> list[str]:
        """Return the captions' columns, as they are written, in the order of choice; at least one.

        ColumnError where none of those that are named, or known, is there, or several known ones are.
        """
        found = self.texts(file, names)
        if not self.captions:
            _check_one(file, found, "captions", CAPTION_OPTION)
        return found

    def images(self, file: object, names: Iterable[str]) -> list[str]:
        """Return the columns that may hold a picture, in the order of choice; ColumnError without the named one."""
        known = IMAGE_COLUMNS if self.image is None else (self.image.lower(),)
        found = _found(names, known)
        if self.image is not None and not found:
            raise ColumnError(f"{file}: expected a column named {self.image}, found {_listed(names)}")
        return found

    def texts(self, file: object, names: Iterable[str]) -> list[str]:
        """Return the columns that may hold a caption, in the order of choice; ColumnError where there is none."""
        known = self.captions or CAPTION_COLUMNS
        found = _found(names, tuple(each.lower() for each in known))
        if not found:
            raise ColumnError(f"{file}: expected a column named {' or '.join(known)}, found {_listed(names)}")
        return found

    def check_row(self, file: object, record: Mapping[str, Any]) -> None:
        """Raise ColumnError where no column is named, and a row, by lower-case names, has two captions or pictures."""
        filled = [name for name, value in record.items() if value is not None]
        if not self.captions:
            _check_one(file, _found(filled, CAPTION_COLUMNS), "captions", CAPTION_OPTION)
        _check_images(file, _found(filled, IMAGE_COLUMNS), self.image)

    def caption_of(self, values: Sequence[Any]) -> Any:
        """Return the caption of a row from the values of its columns of captions; a list where it has several."""
        filled = [value for value in values if _is_filled(value)]
        if not filled:
            return next((value for value in values if value is not None), None)
        if not self.every or len(filled) == 1:
            return filled[0]
        return [caption for value in filled for caption in (value if isinstance(value, list) else [value])]

    def caption_beside(self, where: object, name: str, files: Mapping[str, Callable[[], Any]]) -> Any:
        """Return the caption of a picture's own files.

        Args:
            where: place of the files, for messages.
            name: name of the files, for messages.
            files: function that reads each file, by ending: it returns text, for ``json`` an object by lower-case
                names, or a BadRow. JSON, which holds other facts too, counts if nothing is named and no text is there.

        Raises:
            ColumnError: nothing is named, and there are two texts, or two known names in the JSON.
        """
        texts = [ending for ending in files if ending != "json"]
        if not self.captions and texts:
            _check_one(f"{where}, {name}", [f".{ending}" for ending in texts], "captions", CAPTION_OPTION)
            return self._of_text(files[texts[0]]())
        record = files["json"]() if "json" in files else {}
        if isinstance(record, BadRow):
            return record
        record = {key: _named(name, value) for key, value in record.items()}
        values = []
        for key in (each.lower() for each in self.captions or CAPTION_COLUMNS):
            ending = key.removeprefix(".")
            value = self._of_text(files[ending]()) if ending in texts else record.get(key)
            values += [(key, value)] if value is not None else []
        if not self.captions:
            _check_one(f"{where}, {name}", [key for key, _ in values], "captions", CAPTION_OPTION)
        if not values:
            known, found = " or ".join(self.captions or CAPTION_COLUMNS), _listed([*texts, *record])
            return BadRow("no_caption", f"{name}: expected text in {known}, found {found or 'nothing'}")
        return self.caption_of([value for _, value in values])

    def _of_text(self, found: Any) -> Any:
        """Return a text as one caption, or with `lines` as a list of its lines, where it has several."""
        if not self.lines or not isinstance(found, str):
            return found
        lines = [line for line in LINE_END.split(found) if line.strip()]
        return lines if len(lines) > 1 else found

    def read_beside(self, names: Sequence[str]) -> list[str]:
        """Return those of a picture's files, texts before JSON, that may hold its caption."""
        if not self.captions:
            return list(names[:1])
        chosen = {name.lower().removeprefix(".") for name in self.captions}
        return [name for name in names if not is_text(name) or name.lower().rpartition(".")[2] in chosen]

    def check_beside(self, folder: object, names: Sequence[str]) -> None:
        """Raise ColumnError where no column is named, and a picture has two files of text."""
        if not self.captions:
            _check_one(folder, [name for name in names if is_text(name)], "captions", CAPTION_OPTION)

    def hashed(self, content_hash: str, image: str | None, captions: Sequence[str], names: Iterable[str]) -> str:
        """Return the hash of a file and the columns of its rows; the file's own hash for the default columns."""
        default = column(names, IMAGE_COLUMNS), [column(names, CAPTION_COLUMNS)]
        if (image, list(captions)) == default:
            return content_hash
        return self.named(content_hash, [image or "", *captions])

    def named(self, content_hash: str, names: Sequence[str]) -> str:
        """Return the hash of a file and the chosen names in it; the file's own hash where none is chosen."""
        chosen = [name.lower() for name in names]
        if not chosen:
            return content_hash
        return hashlib.sha256(repr((content_hash, chosen, self.every)).encode()).hexdigest()


KNOWN = Columns()
"""The choice where no column is named."""


def _found(names: Iterable[str], known: tuple[str, ...]) -> list[str]:
    """Return those names that are known columns, in the order of `known`."""
    names = list(names)
    return [str(name) for each in known if (name := column(names, (each,))) is not None]


def _check_images(file: object, found: Sequence[str], named: str | None) -> None:
    if named is None and found:
        kind = next(kind for kind in SAME_KIND if found[0].strip().lower() in kind)
        _check_one(file, [name for name in found if name.strip().lower() in kind], "pictures", IMAGE_OPTION)


def _check_one(file: object, found: Sequence[str], what: str, option: str) -> None:
    if len(found) > 1:
        raise ColumnError(f"{file}: expected one column of {what}, found {_listed(found)}: name one with {option}")


def _named(name: str, value: Any) -> Any:
    """Return a value as it is; for a BadRow put the name of the file that holds it before the detail."""
    return BadRow(value.reason, f"{name}: {value.detail}") if isinstance(value, BadRow) else value


def _is_filled(value: Any) -> bool:
    if isinstance(value, (str, bytes)):
        return bool(value.strip())
    return isinstance(value, BadRow) or value not in (None, [])


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names).encode(errors="backslashreplace").decode()
