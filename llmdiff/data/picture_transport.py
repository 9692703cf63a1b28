"""Connections for URLs that somebody else wrote: to addresses that were checked, each request within a time of its own.

HTTPX has no such limits: its timeouts are of a single read, which a server that sends a byte now and then never meets.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from ssl import SSLContext
from typing import Any

import httpcore
import httpx

from llmdiff.data.public_addresses import resolve

RETRIES = 3
"""Further tries of a connection that fails, with a growing pause before each."""

_end: ContextVar[float] = ContextVar("end")
"""End of the time that this thread's request may take, by the monotonic clock."""


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """End every request of this thread in the block after so many seconds, with `httpx.ReadTimeout`.

    The look-up of a name alone may take longer: as long as the system's resolver tries.
    """
    token = _end.set(time.monotonic() + seconds)
    try:
        yield
    finally:
        _end.reset(token)


class PictureTransport(httpx.BaseTransport):
    """HTTPX's transport over connections that `resolve` chose the addresses of, for requests in a block of `within`.

    A redirect is a request of its own, and checked likewise. Proxies of the environment are not used: what a proxy
    resolves, nobody here can check.
    """

    def __init__(self, *, allow_private: bool) -> None:
        self._pool = httpcore.ConnectionPool(
            ssl_context=httpx.create_ssl_context(), retries=RETRIES, network_backend=CheckedBackend(allow_private)
        )

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request; PrivateAddressError where its host has no address that may be asked."""
        url = request.url
        assert isinstance(request.stream, httpx.SyncByteStream)
        with errors_of_httpx():
            answer = self._pool.handle_request(
                httpcore.Request(
                    method=request.method,
                    url=httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
                    headers=request.headers.raw,
                    content=request.stream,
                    extensions=request.extensions,
                )
            )
        return httpx.Response(
            answer.status, headers=answer.headers, stream=Body(answer.stream), extensions=answer.extensions
        )

    def close(self) -> None:
        """Close all connections."""
        self._pool.close()


class Body(httpx.SyncByteStream):
    """An answer's body as it arrives."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        with errors_of_httpx():
            yield from self._stream

    def close(self) -> None:
        self._stream.close()


@contextmanager
def errors_of_httpx() -> Iterator[None]:
    """Turn errors of httpcore into those of the same name that HTTPX has."""
    try:
        yield
    except (
        httpcore.TimeoutException,
        httpcore.NetworkError,
        httpcore.ProtocolError,
        httpcore.UnsupportedProtocol,
    ) as error:
        raise getattr(httpx, type(error).__name__)(str(error)) from error


class CheckedBackend(httpcore.NetworkBackend):
    """Opens connections to addresses that may be asked, and no others."""

    def __init__(self, allow_private: bool) -> None:
        self._allow_private = allow_private
        self._system = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """Connect to the first address of a host that answers; PrivateAddressError where none may be asked.

        UnicodeError where it can be no name.
        """
        try:
            addresses = resolve(host, port, allow_private=self._allow_private)
        except OSError as error:
            raise httpcore.ConnectError(str(error)) from error
        for i, address in enumerate(addresses, 1):
            try:
                stream = self._system.connect_tcp(address, port, time_left(timeout), local_address, socket_options)
                return BoundedStream(stream)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                if i == len(addresses):
                    raise
        raise AssertionError("there is an address")

    def sleep(self, seconds: float) -> None:
        """Wait before another try."""
        time.sleep(time_left(seconds))


class BoundedStream(httpcore.NetworkStream):
    """A connection whose every step ends when the time of the request does."""

    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, time_left(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, time_left(timeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        return BoundedStream(self._stream.start_tls(ssl_context, server_hostname, time_left(timeout)))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def time_left(timeout: float | None) -> float:
    """Return the seconds that a step may take: those left of the request's, or the step's own limit if less."""
    left = _end.get() - time.monotonic()
    if left <= 0:
        raise httpcore.ReadTimeout("no end in the time of one picture")
    return left if timeout is None else min(left, timeout)
