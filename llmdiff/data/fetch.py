"""Download pictures over HTTP: several at once, bounded in bytes and time; failures are reasons to refuse a row.

Whoever wrote the data chose the URLs, and what answers may be hostile: no address of this machine's own network is
asked unless that is allowed, and nothing that arrives is unpacked.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from functools import cache
from typing import Any

import httpx

from llmdiff.data.in_order import in_order
from llmdiff.data.picture_transport import PictureTransport, within
from llmdiff.data.public_addresses import PrivateAddressError
from llmdiff.data.rejects import BadRow, Reason
from llmdiff.data.remote.http import BUSY, hide_secrets, without_secrets
from llmdiff.data.sources import Row, Url
from llmdiff.data.sources.limits import MAX_BYTES

AT_ONCE = 16
TIMEOUT = 20.0
"""Seconds to wait for a connection, or for the next bytes."""
DEADLINE = 120.0
"""Seconds for the whole of a picture, redirects and further tries included."""

NumberedRow = tuple[int, Row | BadRow]


def with_pictures(
    rows: Iterable[NumberedRow], stopped: Callable[[], bool] = lambda: False, *, allow_private: bool = False
) -> Iterator[NumberedRow]:
    """Yield the rows with the bytes of their pictures in place of URLs, fetched `AT_ONCE` rows ahead.

    A URL that is among the last few asked is not asked again. Once `stopped` returns True, from another thread, no
    other is asked; the rows are then of no use.

    Args:
        rows: rows with their numbers.
        stopped: function that tells whether to stop, see above.
        allow_private: whether addresses of this machine and its network may be asked.
    """
    last: OrderedDict[Url, Future[Any]] = OrderedDict()
    with ExitStack() as opened:

        @cache
        def client_and_threads() -> tuple[
            httpx.Client, ThreadPoolExecutor
        ]:  # with the first URL, for most data have none
            client = opened.enter_context(picture_client(allow_private=allow_private))
            return client, opened.enter_context(ThreadPoolExecutor(AT_ONCE, "fetch"))

        def start(row: NumberedRow) -> Future[Any]:
            if not isinstance(row[1], Row) or not isinstance(url := row[1].image, Url):
                return _done(None)
            client, threads = client_and_threads()
            last[url] = last.pop(url) if url in last else threads.submit(_ask, client, url, stopped)
            if len(last) > AT_ONCE:
                last.popitem(last=False)
            return last[url]

        for (number, row), data in opened.enter_context(closing(in_order(start, rows, AT_ONCE))):
            yield number, _with_bytes(row, data)


def picture_client(*, allow_private: bool) -> httpx.Client:
    """Return a client for `fetch`, to be closed."""
    hide_secrets()
    return httpx.Client(
        transport=PictureTransport(allow_private=allow_private),
        timeout=TIMEOUT,
        follow_redirects=True,
        headers={"User-Agent": "llmdiff", "Accept-Encoding": "identity"},
    )


def fetch(client: httpx.Client, url: str, max_bytes: int = MAX_BYTES) -> bytes | BadRow:
    """Return the bytes behind a URL, or why there are none.

    The reasons: "private_address" where it leads to this machine or its network, "no_answer" where asking later may
    help, else "not_fetched".
    """
    address = without_secrets(url)
    try:
        with within(DEADLINE), client.stream("GET", url) as answer:
            if not answer.is_success:
                reason: Reason = "no_answer" if answer.status_code in BUSY else "not_fetched"
                return BadRow(reason, f"{address}: HTTP {answer.status_code} {answer.reason_phrase}")
            return _read(answer, max_bytes)
    except BadRow as bad:
        return bad
    except PrivateAddressError as error:
        return BadRow("private_address", f"{address}: {error}")
    except (httpx.UnsupportedProtocol, httpx.TooManyRedirects, httpx.InvalidURL, UnicodeError) as error:
        return BadRow("not_fetched", f"{address}: {type(error).__name__}: {error}")
    except httpx.HTTPError as error:
        return BadRow("no_answer", f"{address}: {type(error).__name__}: {error}")


def _read(answer: httpx.Response, max_bytes: int) -> bytes:
    """Return the body as it was sent; refuse a compressed one, of which a few bytes may become gigabytes."""
    data, address = bytearray(), without_secrets(str(answer.url))
    if (packed := answer.headers.get("Content-Encoding", "identity").strip().lower()) not in ("", "identity"):
        raise BadRow("not_fetched", f"{address}: expected a picture as it is, found it packed: {packed}")
    for part in answer.iter_raw():
        data += part
        if len(data) > max_bytes:
            raise BadRow("not_fetched", f"{address}: expected at most {max_bytes} bytes, found more")
    return bytes(data)


def _ask(client: httpx.Client, url: Url, stopped: Callable[[], bool]) -> bytes | BadRow:
    return BadRow("no_answer", f"{without_secrets(url)}: stopped") if stopped() else fetch(client, url)


def _done(result: Any) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_result(result)
    return future


def _with_bytes(row: Row | BadRow, data: bytes | BadRow | None) -> Row | BadRow:
    if data is None or isinstance(row, BadRow):
        return row
    return row._replace(image=data) if isinstance(data, bytes) else BadRow(data.reason, row.place + data.detail)
