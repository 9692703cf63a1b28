"""Files of a web server by their addresses; it does not list what it has."""

from __future__ import annotations

import posixpath
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import ClassVar, Self
from urllib.parse import quote, unquote, urlsplit

from llmdiff.data.remote.http import facts_of, read_range, without_secrets
from llmdiff.data.remote.place import Child, FileFacts

BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")


@dataclass(frozen=True)
class Web:
    """A web server; see `llmdiff.data.remote.place.RemotePlace`."""

    can_list: ClassVar[bool] = False

    root: str
    """Address of the server: ``https://host``."""
    files: tuple[tuple[str, str], ...]
    """Key of each given address, and its query, which may be a signature."""

    def address(self, key: str) -> str:
        return f"{self.root}/{key}"

    def children(self, key: str) -> Iterator[Child]:
        rests = (name.removeprefix(f"{key}/" if key else "") for name, _ in self._inside(key))
        for name, is_folder in sorted({(rest.partition("/")[0], "/" in rest) for rest in rests}):
            yield Child(name, is_folder)

    def facts(self, key: str) -> FileFacts | None:
        """See `RemotePlace.facts`; servers make a tag of a file's time and size, which two files may share."""
        if self._inside(key):  # a folder
            return None
        found = facts_of(self._url(key))
        return None if found is None else found._replace(address=self.address(key))

    def read(self, key: str, start: int, stop: int | None, tag: str) -> bytes:
        return read_range(self._url(key), start, stop, tag)

    def only(self, key: str) -> Self:
        """See `RemotePlace.only`; what lies beside a file, as a list does, has another ending than the file."""
        below = self._inside(key)
        beside = [file for file in self._inside(posixpath.dirname(key)) if _ending(file[0]) != _ending(key)]
        return type(self)(self.root, tuple(below or [(key, dict(self.files).get(key, "")), *beside]))

    def _inside(self, folder: str) -> list[tuple[str, str]]:
        """Return the files below a folder."""
        return [file for file in self.files if file[0].startswith(f"{folder}/" if folder else "")]

    def _url(self, key: str) -> str:
        query = dict(self.files).get(key, "")
        return f"{self.root}/{quote(key, safe='/~!$&()*+,;=:@')}" + (f"?{query}" if query else "")


def web_files(text: str) -> Web:
    """Return the server and the files of some addresses, which white space separates.

    ``{00000..00099}`` in an address stands for the numbers between, as WebDataset has it.

    Raises:
        ValueError: a password in an address, no address, no file, one file twice, or files of several servers.
    """
    urls = [url for each in text.split() for url in _numbered(each)]
    for url in urls:
        if "@" in urlsplit(url).netloc:  # the error does not repeat it
            raise ValueError("data: expected an address without a user and a password, found one with them")
    parts = [urlsplit(url) for url in urls]
    roots = sorted({f"{part.scheme}://{part.netloc}" for part in parts})
    if len(roots) > 1:
        raise ValueError(f"data: expected files of one server, found {', '.join(roots)}")
    if not urls:
        raise ValueError(f"{without_secrets(text)}: expected the address of a file, found none")
    files = tuple((unquote(part.path).strip("/"), part.query) for part in parts)
    if not all(key and part.netloc for (key, _), part in zip(files, parts, strict=True)):
        raise ValueError(f"{without_secrets(urls[0])}: expected the address of a file")
    twice = [key for key, count in Counter(key for key, _ in files).items() if count > 1]
    if twice:
        raise ValueError(f"{roots[0]}/{twice[0]}: expected each file once, found it in several addresses")
    return Web(roots[0], files)


def _ending(key: str) -> str:
    return posixpath.splitext(key)[1].lower()


def _numbered(url: str) -> Iterator[str]:
    """Yield an address for each of the numbers in braces."""
    pieces = BRACES.split(url)
    ranges = [
        [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]
        for first, last in zip(pieces[1::3], pieces[2::3], strict=True)
    ]
    for numbers in product(*ranges):
        yield pieces[0] + "".join(number + rest for number, rest in zip(numbers, pieces[3::3], strict=True))
