"""Pictures behind URLs, from a server on loopback."""

from __future__ import annotations

import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmdiff.data import fetch as fetching
from llmdiff.data import public_addresses
from llmdiff.data.encode import EncoderSet, encode_shard
from llmdiff.data.fetch import fetch, picture_client
from llmdiff.data.public_addresses import is_public
from llmdiff.data.rejects import BadRow
from llmdiff.data.sources import open_source
from storage import EncodingStore
from tests.data.pictures import encoded, picture
from tests.http_servers import serving

PNG = encoded(picture())


ENDLESS = {
    "/headers": (b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"),
    "/hints": (b"", b"HTTP/1.1 103 Early Hints\r\n\r\n"),
    "/body": (b"HTTP/1.1 200 OK\r\n\r\n", b"."),
    "/chunks": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1;" + b"x" * 1000 + b"\r\n.\r\n"),
}
"""What a path sends first, and then again and again."""


class Site:
    """What the server gave, by path."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.asked: Counter[str] = Counter()
        self.busy = True


@pytest.fixture
def http_server() -> Iterator[Site]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found.asked[self.path] += 1
            if self.path in ENDLESS:
                self.never_end(*ENDLESS[self.path])
                return
            if self.path == "/away":
                self.send_response(302)
                self.send_header("Location", f"{found.url.replace('127.0.0.1', '127.0.0.2')}/a.png")
                self.end_headers()
                return
            if self.path == "/packed":
                self.send_response(200)
                self.send_header("Content-Encoding", "gzip, gzip")
                self.end_headers()
                return
            if self.path.startswith("/moved"):
                self.send_response(302)
                self.send_header("Location", self.path.removeprefix("/moved") or "file:///etc/passwd")
                self.end_headers()
                return
            if self.path == "/busy" and found.busy:
                self.send_error(503)
                return
            body = {"/a.png": PNG, "/busy": PNG, "/long": bytes(100_000), "/page": b"<html>", "/cut": PNG[:50]}.get(
                self.path
            )
            self.send_response(404 if body is None else 200)
            self.send_header("Content-Length", str(len(PNG if self.path == "/cut" else body or b"")))
            self.end_headers()
            self.wfile.write(body or b"")

        def never_end(self, first: bytes, again: bytes) -> None:
            with suppress(OSError):
                self.wfile.write(first)
                while True:
                    self.wfile.write(again)
                    time.sleep(0.01)

        def log_message(self, *arguments: object) -> None:
            pass

    with serving(Handler) as (_, address):
        found = Site(address)
        yield found


@pytest.mark.parametrize("path", ["/a.png", "/moved/a.png"])
def test_a_picture_is_fetched(http_server: Site, path: str) -> None:
    with picture_client(allow_private=True) as client:
        assert fetch(client, http_server.url + path) == PNG


@pytest.mark.parametrize(
    ("url", "reason", "detail"),
    [
        ("{site}/gone?signature=secret", "not_fetched", "/gone: HTTP 404 Not Found"),
        ("{site}/long", "not_fetched", "/long: expected at most 50000 bytes, found more"),
        ("{site}/busy", "no_answer", "/busy: HTTP 503 Service Unavailable"),
        ("{site}/cut", "no_answer", "RemoteProtocolError: "),
        ("{site}/packed", "not_fetched", "/packed: expected a picture as it is, found it packed: gzip, gzip"),
        ("{site}/moved", "not_fetched", "UnsupportedProtocol: "),
        ("http://127.0.0.1:9/a.png", "no_answer", "ConnectError: "),
        ("file:///etc/passwd", "not_fetched", "UnsupportedProtocol: "),
        ("ftp://x/a.png", "not_fetched", "UnsupportedProtocol: "),
        ("http://x:port/a.png", "not_fetched", "InvalidURL: "),
        ("http://" + "x" * 300 + "/", "not_fetched", "Error: "),
    ],
)
def test_what_gives_no_picture_says_why(http_server: Site, url: str, reason: str, detail: str) -> None:
    with picture_client(allow_private=True) as client:
        found = fetch(client, url.format(site=http_server.url), max_bytes=50_000)
    assert isinstance(found, BadRow)
    assert found.reason == reason
    assert detail in found.detail


@pytest.mark.parametrize("path", ENDLESS)
def test_a_server_that_never_ends_is_given_up(http_server: Site, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.setattr(fetching, "DEADLINE", 0.3)
    began = time.monotonic()
    with picture_client(allow_private=True) as client:
        found = fetch(client, http_server.url + path)
    assert isinstance(found, BadRow)
    assert (found.reason, "no end in the time" in found.detail or "timed out" in found.detail) == ("no_answer", True)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "0",
        "2130706433",
        "0x7f.1",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "169.254.169.254",
        "10.0.0.1",
    ],
)
def test_no_private_address_is_asked(host: str) -> None:
    with picture_client(allow_private=False) as client:
        found = fetch(client, f"http://{host}:9/a.png")
    assert isinstance(found, BadRow)
    assert (found.reason, "expected a public address, found" in found.detail) == ("private_address", True)


def test_a_redirect_to_a_private_address_is_not_followed(http_server: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(public_addresses, "is_public", lambda address: address == "127.0.0.1")
    with picture_client(allow_private=False) as client:
        assert fetch(client, f"{http_server.url}/a.png") == PNG
        found = fetch(client, f"{http_server.url}/away")
    assert isinstance(found, BadRow)
    assert found.reason == "private_address"
    assert http_server.asked == {"/a.png": 1, "/away": 1}


def test_what_was_checked_is_what_is_asked(http_server: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name whose second look-up has another answer, as rebinding does."""
    looked_up: list[str] = []
    resolve = socket.getaddrinfo

    def rebind(host: str, port: int, *arguments: object, **options: object) -> list[tuple[object, ...]]:
        if host != "pictures.example":
            return resolve(host, port, *arguments, **options)  # type: ignore[call-overload,no-any-return]
        looked_up.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"127.0.0.{len(looked_up)}", port))]

    monkeypatch.setattr(socket, "getaddrinfo", rebind)
    monkeypatch.setattr(public_addresses, "is_public", lambda address: address == "127.0.0.1")
    url = http_server.url.replace("127.0.0.1", "pictures.example")
    with picture_client(allow_private=False) as client:
        assert fetch(client, f"{url}/a.png") == PNG
    assert looked_up == ["pictures.example"]


@pytest.mark.parametrize(
    ("addresses", "public"),
    [
        (["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"], True),
        (["127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "100.64.0.1", "100.100.100.200", "0.0.0.0"], False),
        (["169.254.169.254", "168.63.129.16", "224.0.0.1", "255.255.255.255", "240.0.0.1", "198.18.0.1"], False),
        (["::", "::1", "fe80::1", "fe80::1%lo", "fd00:ec2::254", "fec0::1", "ff02::1", "::127.0.0.1"], False),
        (["::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "2001:0:4136:e378:8000:63bf:3fff:fdd2"], False),
    ],
)
def test_which_addresses_are_public(addresses: list[str], public: bool) -> None:
    assert {address: is_public(address) for address in addresses} == dict.fromkeys(addresses, public)


def test_private_addresses_are_refused_and_asked_once_they_are_allowed(
    http_server: Site, store: EncodingStore, encoders: EncoderSet, tmp_path: Path
) -> None:
    pq.write_table(pa.table({"url": [f"{http_server.url}/a.png"], "text": ["a cat"]}), tmp_path / "a.parquet")

    def run(allow_private: bool) -> tuple[int, int, dict[str, int]]:
        (shard,) = open_source(tmp_path / "a.parquet")
        report = encode_shard(store, shard, encoders, allow_private=allow_private)
        return report.known, report.samples, dict(report.rejected)

    assert [run(False), run(False)] == [(0, 0, {"private_address": 1}), (1, 0, {})]
    assert not http_server.asked
    assert [run(True), run(False)] == [(0, 1, {}), (1, 0, {})]


def test_each_url_is_asked_once_and_none_again_by_a_second_run(
    http_server: Site, store: EncodingStore, encoders: EncoderSet, tmp_path: Path
) -> None:
    urls = [f"{http_server.url}/{name}" for name in ("a.png", "a.png", "gone", "page")]
    pq.write_table(pa.table({"URL": urls, "TEXT": ["a cat", "a dog", "x", "y"]}), tmp_path / "a.parquet")
    (shard,) = open_source(tmp_path / "a.parquet")
    report = encode_shard(store, shard, encoders, allow_private=True)
    assert (report.samples, report.latents) == (2, 1)
    assert report.rejected == {"not_fetched": 1, "broken_image": 1}
    assert report.examples[0] == f"a.parquet row 2: not_fetched: {http_server.url}/gone: HTTP 404 Not Found"
    assert http_server.asked == {"/a.png": 1, "/gone": 1, "/page": 1}
    again = encode_shard(store, open_source(tmp_path / "a.parquet")[0], encoders, allow_private=True)
    assert (again.known, again.samples) == (4, 0)
    assert http_server.asked.total() == 3
    table = {"URL": [*urls, f"{http_server.url}/long"], "TEXT": ["a cat", "a dog", "x", "y", "z"]}
    pq.write_table(pa.table(table), tmp_path / "b.parquet")
    longer = encode_shard(store, open_source(tmp_path / "b.parquet")[0], encoders, allow_private=True)
    assert longer.rejected["broken_image"] == 2


def test_a_server_that_is_busy_is_asked_again_by_the_next_run(
    http_server: Site, store: EncodingStore, encoders: EncoderSet, tmp_path: Path
) -> None:
    pq.write_table(pa.table({"url": [f"{http_server.url}/busy"], "text": ["a cat"]}), tmp_path / "a.parquet")

    def run() -> tuple[int, int, dict[str, int]]:
        report = encode_shard(store, open_source(tmp_path / "a.parquet")[0], encoders, allow_private=True)
        return report.known, report.samples, dict(report.rejected)

    assert [run(), run()] == [(0, 0, {"no_answer": 1})] * 2
    assert store.rejects()["reason"].to_pylist() == ["no_answer"]
    http_server.busy = False
    assert [run(), run()] == [(0, 1, {}), (1, 0, {})]
    assert len(store.rejects()) == 0
