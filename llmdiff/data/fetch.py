"""Downloads pictures over HTTP: several at once, bounded in bytes and time; failures are reasons to refuse a row."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import httpx

from llmdiff.data.rejects import BadRow, Reason
from llmdiff.data.remote.http import BUSY, hide_secrets, without_secrets
from llmdiff.data.sources import Row, Url

AT_ONCE = 16
RETRIES = 3
"""How often a connection that fails is tried again, with a growing pause before each try."""
TIMEOUT = 20.0
"""Seconds to wait for a connection, or for the next bytes."""
DEADLINE = 120.0
"""Seconds for the whole of a picture."""
MAX_BYTES = 64 * 1024**2


def fetch_pictures(
    rows: Sequence[tuple[int, Row | BadRow]], stopped: Callable[[], bool] = lambda: False
) -> list[tuple[int, Row | BadRow]]:
    """Return the rows with the bytes of their pictures in place of URLs; each URL is asked once.

    Once `stopped` returns True, from another thread, no other is asked; the rows are then of no use.
    """

    def ask(url: Url) -> bytes | BadRow:
        return BadRow("no_answer", f"{url}: stopped") if stopped() else fetch(client, url)

    urls = list({row.image: None for _, row in rows if isinstance(row, Row) and isinstance(row.image, Url)})
    if not urls:
        return list(rows)
    hide_secrets()
    transport = httpx.HTTPTransport(retries=RETRIES)
    headers = {"User-Agent": "llmdiff"}
    with httpx.Client(transport=transport, timeout=TIMEOUT, follow_redirects=True, headers=headers) as client:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            found = dict(zip(urls, pool.map(ask, urls), strict=True))
    return [(number, _with_bytes(row, found)) for number, row in rows]


def fetch(client: httpx.Client, url: str, max_bytes: int = MAX_BYTES) -> bytes | BadRow:
    """Return what a URL gives, or why it gives none: "not_fetched", or "no_answer" where asking later may help."""
    address = without_secrets(url)
    try:
        with client.stream("GET", url) as answer:
            if not answer.is_success:
                reason: Reason = "no_answer" if answer.status_code in BUSY else "not_fetched"
                return BadRow(reason, f"{address}: HTTP {answer.status_code} {answer.reason_phrase}")
            return _read(answer, max_bytes)
    except BadRow as bad:
        return bad
    except (httpx.UnsupportedProtocol, httpx.TooManyRedirects, httpx.InvalidURL, UnicodeError) as error:
        return BadRow("not_fetched", f"{address}: {type(error).__name__}: {error}")
    except httpx.HTTPError as error:
        return BadRow("no_answer", f"{address}: {type(error).__name__}: {error}")


def _read(answer: httpx.Response, max_bytes: int) -> bytes:
    data, end, address = bytearray(), time.monotonic() + DEADLINE, without_secrets(str(answer.url))
    for part in answer.iter_bytes():
        data += part
        if len(data) > max_bytes:
            raise BadRow("not_fetched", f"{address}: expected at most {max_bytes} bytes, found more")
        if time.monotonic() > end:
            raise BadRow("no_answer", f"{address}: no end after {DEADLINE:.0f} s")
    return bytes(data)


def _with_bytes(row: Row | BadRow, found: dict[Url, bytes | BadRow]) -> Row | BadRow:
    if isinstance(row, BadRow) or not isinstance(row.image, Url):
        return row
    data = found[row.image]
    if isinstance(data, BadRow):
        return BadRow(data.reason, row.place + data.detail)
    return row._replace(image=data)
