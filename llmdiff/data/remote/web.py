"""Files of a web server, which does not list what it has: those whose addresses are given."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import ClassVar, Self
from urllib.parse import quote, unquote, urlsplit

from llmdiff.data.remote.http import facts_of, read_range, without_secrets
from llmdiff.data.remote.place import Child, Facts

BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")


@dataclass(frozen=True)
class Web:
    """A web server; see `llmdiff.data.remote.place.Place`."""

    can_list: ClassVar[bool] = False

    root: str
    """Its address: ``https://host``."""
    files: tuple[tuple[str, str], ...]
    """The keys that were given, and the query of each address, which may be its signature."""

    def address(self, key: str) -> str:
        return f"{self.root}/{key}"

    def children(self, key: str) -> Iterator[Child]:
        inside = f"{key}/" if key else ""
        rests = (name.removeprefix(inside) for name, _ in self.files if name.startswith(inside))
        for name, is_folder in sorted({(rest.partition("/")[0], "/" in rest) for rest in rests}):
            yield Child(name, is_folder)

    def facts(self, key: str) -> Facts | None:
        """See `Place.facts`; servers make a tag of a file's time and size, which two files may share."""
        if any(name.startswith(f"{key}/" if key else "") for name, _ in self.files):  # a folder
            return None
        found = facts_of(self._url(key))
        return None if found is None else found._replace(address=self.address(key))

    def read(self, key: str, start: int, stop: int | None, tag: str) -> bytes:
        return read_range(self._url(key), start, stop, tag)

    def only(self, key: str) -> Self:
        return type(self)(self.root, tuple(file for file in self.files if file[0] == key))

    def _url(self, key: str) -> str:
        query = dict(self.files).get(key, "")
        return f"{self.root}/{quote(key, safe='/~!$&()*+,;=:@')}" + (f"?{query}" if query else "")


def web_files(text: str) -> Web:
    """Return the server and the files of some addresses, with white space between them.

    ``{00000..00099}`` in an address stands for the numbers between, as WebDataset has it.

    Raises:
        ValueError: a password in an address, no file, or files of several servers.
    """
    urls = [url for each in text.split() for url in _numbered(each)]
    for url in urls:
        if "@" in urlsplit(url).netloc:  # not even this error repeats it
            raise ValueError("data: expected an address without a user and a password, found one with them")
    parts = [urlsplit(url) for url in urls]
    roots = sorted({f"{part.scheme}://{part.netloc}" for part in parts})
    if len(roots) > 1:
        raise ValueError(f"data: expected files of one server, found {', '.join(roots)}")
    files = tuple((unquote(part.path).strip("/"), part.query) for part in parts)
    if not all(key and part.netloc for (key, _), part in zip(files, parts, strict=True)):
        raise ValueError(f"{without_secrets(urls[0])}: expected the address of a file")
    return Web(roots[0], files)


def _numbered(url: str) -> Iterator[str]:
    """An address for each of the numbers in braces."""
    pieces = BRACES.split(url)
    ranges = [
        [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]
        for first, last in zip(pieces[1::3], pieces[2::3], strict=True)
    ]
    for numbers in product(*ranges):
        yield pieces[0] + "".join(number + rest for number, rest in zip(numbers, pieces[3::3], strict=True))
