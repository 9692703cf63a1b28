"""Pictures behind URLs, from a server on loopback."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmdiff.data import fetch as fetching
from llmdiff.data.encode import EncoderSet, encode_shard
from llmdiff.data.fetch import fetch
from llmdiff.data.rejects import BadRow
from llmdiff.data.sources import open_source
from storage import EncodingStore
from tests.data.pictures import encoded, picture

PNG = encoded(picture())


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

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found = Site(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield found
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("path", ["/a.png", "/moved/a.png"])
def test_a_picture_is_fetched(http_server: Site, path: str) -> None:
    with httpx.Client(follow_redirects=True) as client:
        assert fetch(client, http_server.url + path) == PNG


@pytest.mark.parametrize(
    ("url", "reason", "detail"),
    [
        ("{site}/gone?signature=secret", "not_fetched", "/gone: HTTP 404 Not Found"),
        ("{site}/long", "not_fetched", "/long: expected at most 50000 bytes, found more"),
        ("{site}/busy", "no_answer", "/busy: HTTP 503 Service Unavailable"),
        ("{site}/cut", "no_answer", "RemoteProtocolError: "),
        ("{site}/moved", "not_fetched", "UnsupportedProtocol: "),
        ("http://127.0.0.1:9/a.png", "no_answer", "ConnectError: "),
        ("file:///etc/passwd", "not_fetched", "UnsupportedProtocol: "),
        ("ftp://x/a.png", "not_fetched", "UnsupportedProtocol: "),
        ("http://x:port/a.png", "not_fetched", "InvalidURL: "),
        ("http://" + "x" * 300 + "/", "not_fetched", "Error: "),
    ],
)
def test_what_gives_no_picture_says_why(http_server: Site, url: str, reason: str, detail: str) -> None:
    with httpx.Client(follow_redirects=True) as client:
        found = fetch(client, url.format(site=http_server.url), max_bytes=50_000)
    assert isinstance(found, BadRow)
    assert found.reason == reason
    assert detail in found.detail


def test_a_server_that_never_ends_is_given_up(http_server: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "DEADLINE", -1.0)
    with httpx.Client() as client:
        assert "no end after" in str(fetch(client, http_server.url + "/a.png"))


def test_each_url_is_asked_once_and_none_again_by_a_second_run(
    http_server: Site, store: EncodingStore, encoders: EncoderSet, tmp_path: Path
) -> None:
    urls = [f"{http_server.url}/{name}" for name in ("a.png", "a.png", "gone", "page")]
    pq.write_table(pa.table({"URL": urls, "TEXT": ["a cat", "a dog", "x", "y"]}), tmp_path / "a.parquet")
    (shard,) = open_source(tmp_path / "a.parquet")
    report = encode_shard(store, shard, encoders)
    assert (report.samples, report.latents) == (2, 1)
    assert report.rejected == {"not_fetched": 1, "broken_image": 1}
    assert report.examples[0] == f"a.parquet row 2: not_fetched: {http_server.url}/gone: HTTP 404 Not Found"
    assert http_server.asked == {"/a.png": 1, "/gone": 1, "/page": 1}
    again = encode_shard(store, open_source(tmp_path / "a.parquet")[0], encoders)
    assert (again.known, again.samples) == (4, 0)
    assert http_server.asked.total() == 3
    table = {"URL": [*urls, f"{http_server.url}/long"], "TEXT": ["a cat", "a dog", "x", "y", "z"]}
    pq.write_table(pa.table(table), tmp_path / "b.parquet")
    assert encode_shard(store, open_source(tmp_path / "b.parquet")[0], encoders).rejected["broken_image"] == 2


def test_a_server_that_is_busy_is_asked_again_by_the_next_run(
    http_server: Site, store: EncodingStore, encoders: EncoderSet, tmp_path: Path
) -> None:
    pq.write_table(pa.table({"url": [f"{http_server.url}/busy"], "text": ["a cat"]}), tmp_path / "a.parquet")

    def run() -> tuple[int, int, dict[str, int]]:
        report = encode_shard(store, open_source(tmp_path / "a.parquet")[0], encoders)
        return report.known, report.samples, dict(report.rejected)

    assert [run(), run()] == [(0, 0, {"no_answer": 1})] * 2
    assert store.rejects()["reason"].to_pylist() == ["no_answer"]
    http_server.busy = False
    assert [run(), run()] == [(0, 1, {}), (1, 0, {})]
    assert len(store.rejects()) == 0
