"""Read over HTTP by ranges, resuming where a connection broke; show addresses without their secrets."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from functools import cache
from typing import Any

import httpx

from llmdiff.data.remote.place import FileFacts, Refusal

TRIES = 6
"""Most requests in a row that bring no byte."""
PAUSE = 0.5
"""Seconds before the second try; each is twice as long as the one before."""
LONGEST_PAUSE = 60.0
"""Most seconds to wait, where a server says how long."""
TIMEOUT = 30.0
"""Seconds to wait for a connection, or for the next bytes."""
BUSY = {408, 425, 429, 500, 502, 503, 504}
"""HTTP status codes of a server that may answer later."""


class _Busy(Exception):
    """An answer that may be different later."""

    def __init__(self, status: str, wait: float) -> None:
        super().__init__(status)
        self.wait = wait


def read_range(url: str, start: int, stop: int | None, tag: str = "", headers: Mapping[str, str] = {}) -> bytes:
    """Return the bytes of a file from `start` to `stop`, or to its end; errors as of `RemotePlace.read`.

    Args:
        url: address of the file.
        start: position of the first byte.
        stop: after the last one; None for all that there are.
        tag: the strong entity tag that the file must still have; empty where it has none.
        headers: further headers of the request.
    """
    data = bytearray()
    tries = 0
    while stop is None or start + len(data) < stop:
        before = len(data)
        try:
            _append(data, url, start, stop, tag, headers)
            break
        except (httpx.TransportError, httpx.DecodingError, _Busy) as error:
            tries = 1 if len(data) > before else tries + 1
            if tries == TRIES:
                raise ConnectionError(f"{without_secrets(url)}: {_words(error)}, {TRIES} times") from error
            time.sleep(error.wait if isinstance(error, _Busy) and error.wait else PAUSE * 2 ** (tries - 1))
    return bytes(data)


def facts_of(url: str, headers: Mapping[str, str] = {}) -> FileFacts | None:
    """Return a server's facts of a file; None where there is no such file.

    It is asked for the first byte, for an address that was signed for reading is refused to a HEAD.
    """
    for tries in range(1, TRIES + 1):
        try:
            with _answer(url, {**headers, "Range": "bytes=0-0"}) as answer:
                return _facts(answer)
        except FileNotFoundError:
            return None
        except (httpx.TransportError, _Busy) as error:
            if tries == TRIES:
                raise ConnectionError(f"{without_secrets(url)}: {_words(error)}, {TRIES} times") from error
            time.sleep(error.wait if isinstance(error, _Busy) and error.wait else PAUSE * 2 ** (tries - 1))
    raise AssertionError("the last try returns or raises")


def without_secrets(url: str) -> str:
    """Return an address without its user, its password and its query, which may be a signature."""
    return re.sub(r"//[^/?#]*@", "//", re.split(r"[?#]", url, maxsplit=1)[0])


def _append(data: bytearray, url: str, start: int, stop: int | None, tag: str, headers: Mapping[str, str]) -> None:
    """Append the bytes of a range that `data` lacks."""
    first = start + len(data)
    asked = {**headers, **({"If-Match": f'"{tag}"'} if tag else {})}
    if first or stop is not None:
        asked["Range"] = f"bytes={first}-{'' if stop is None else stop - 1}"
    with _answer(url, asked) as answer:
        if answer.status_code == 416:  # an empty file, or the end was reached
            return
        if first and answer.status_code != 206:
            found = f"found {answer.status_code}: the server gives whole files only; copy it to a disk"
            raise Refusal(f"{without_secrets(url)}: expected an answer with a part of the file, HTTP 206, {found}")
        wanted = None if stop is None else stop - first
        for part in answer.iter_raw():
            data += part if wanted is None else part[: wanted - (start + len(data) - first)]
            if stop is not None and start + len(data) >= stop:
                return
    if stop is not None and start + len(data) < stop:
        raise ValueError(f"{without_secrets(url)}: expected {stop} bytes, found {start + len(data)}: it changed")


@contextmanager
def _answer(url: str, headers: Mapping[str, str]) -> Iterator[httpx.Response]:
    """Open an answer that is a file, a part of one, or the statement that there is no such part."""
    try:
        with _client().stream("GET", url, headers={**headers, "Accept-Encoding": "identity"}) as answer:
            _check(answer, url)
            yield answer
    except (httpx.UnsupportedProtocol, httpx.TooManyRedirects, httpx.InvalidURL) as error:
        raise ValueError(f"{without_secrets(url)}: {_words(error)}") from error


def _check(answer: httpx.Response, url: str) -> None:
    status = f"HTTP {answer.status_code} {answer.reason_phrase}".rstrip()
    if answer.is_success or answer.status_code == 416:
        return
    if answer.status_code in BUSY:
        wait = answer.headers.get("Retry-After", "")
        raise _Busy(status, min(float(wait), LONGEST_PAUSE) if wait.isdecimal() else 0.0)
    if answer.status_code == 412:
        raise ValueError(f"{without_secrets(url)}: it changed while it was read")
    if answer.status_code in (401, 403):
        raise Refusal(f"{without_secrets(url)}: {status}")
    if answer.status_code in (404, 410):
        raise FileNotFoundError(f"{without_secrets(url)}: {status}")
    raise ValueError(f"{without_secrets(url)}: expected a file, found {status}")


def _facts(answer: httpx.Response) -> FileFacts:
    """Return the facts of a file in the answer to a request for its first byte."""
    size = answer.headers.get("Content-Range", "").rpartition("/")[2]
    if answer.status_code == 200:
        size = answer.headers.get("Content-Length", "")
    if not size.isdecimal():
        raise ValueError(f"{without_secrets(str(answer.url))}: expected a file of known size, found none")
    tag = answer.headers.get("ETag", "")
    return FileFacts(
        int(size),
        _time(answer.headers.get("Last-Modified", "")),
        "" if tag.startswith("W/") else tag.strip('"'),  # a weak tag does not identify the bytes
    )


def _time(text: str) -> float:
    """Return a date as seconds since 1970; 0 where it is none."""
    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, OverflowError):
        return 0.0


def _words(error: Exception) -> str:
    """Return an error's text without the address, which may be signed."""
    return str(error) if isinstance(error, _Busy) else f"{type(error).__name__}: {error}".partition(" for url")[0]


class _NoSecrets(logging.Filter):
    """Removes secrets from the addresses that httpx logs."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(map(_shown, record.args))
        return True


def _shown(value: Any) -> Any:
    return without_secrets(str(value)) if isinstance(value, httpx.URL) else value


@cache
def hide_secrets() -> None:
    """Make httpx log addresses without their secrets."""
    logging.getLogger("httpx").addFilter(_NoSecrets())


@cache
def _client() -> httpx.Client:
    """Return the process's client, whose connections stay open between ranges."""
    hide_secrets()
    return httpx.Client(timeout=TIMEOUT, follow_redirects=True, headers={"User-Agent": "llmdiff"})
