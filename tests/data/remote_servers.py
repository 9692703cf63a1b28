"""A server on loopback that gives files by ranges, as web servers do, and data sets, as the Hugging Face hub does."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.http_servers import serving

REPO, COMMIT = "owner/photos", "c0ffee" + "0" * 34
PAGE = 3
"""Files of a page of the hub's listing."""


class FileServer:
    """What is served, and what was asked for."""

    def __init__(self, url: str, root: Path) -> None:
        self.url = url
        self.root = root
        """Files by path, and the data set's own, too."""
        self.card: dict[str, Any] = {}
        self.asked: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()
        """Bytes that were sent, by path."""
        self.headers: list[dict[str, str]] = []
        """Headers of each request."""
        self.breaks: Counter[str] = Counter()
        """How often answers of a path are to end in their midst."""
        self.busy: Counter[str] = Counter()
        """How often a path is to be answered by 503."""
        self.whole_only = False
        """Whether requests for a range get the whole file, as of a simple server."""
        self.refused: set[str] = set()
        """Paths that are answered by 403."""
        self.signed = False
        """Whether a file is given only to an address that ends in ``?signature=of-`` and its path."""
        self.together: threading.Barrier | None = None
        """Barrier that requests for files wait at, so that as many must be on their way at once; else they get 400."""
        self.tags = "content"
        """What entity tags are made of: content; "time and size", as nginx and Apache make them; none where empty."""
        self.odd: dict[str, int] = {}
        """Status of the answer to names that no file has, by path: 200 brings a page in HTML; 404 for the others."""


@contextmanager
def file_server(root: Path) -> Iterator[FileServer]:
    with serving(_Handler) as (server, address):
        server.found = FileServer(address, root)  # type: ignore[attr-defined]
        yield server.found  # type: ignore[attr-defined]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def handle(self) -> None:
        with suppress(ConnectionError):  # of a client that needs no more
            super().handle()

    @property
    def site(self) -> FileServer:
        return self.server.found  # type: ignore[attr-defined,no-any-return]

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.site.asked[path] += 1
        self.site.headers.append(dict(self.headers))
        if path in self.site.refused:
            self.send(403, b"signature")
        elif path.startswith(f"/api/datasets/{REPO}"):
            self.answer_hub(path.removeprefix(f"/api/datasets/{REPO}"))
        elif path.startswith("/api/"):
            self.send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        else:
            self.answer_file(path, re.sub(rf"^/datasets/{REPO}/resolve/{COMMIT}/", "/", path))

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        asked = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        files = [self.site.root / path for path in asked["paths"]]
        self.send(200, json.dumps([self.entry(file) for file in files if file.exists()]).encode())

    def answer_file(self, path: str, name: str) -> None:
        file = self.site.root / name.lstrip("/")
        if self.site.busy[path] > 0:
            self.site.busy[path] -= 1
            return self.send(503, b"busy")
        if self.site.together is not None:
            try:
                self.site.together.wait(timeout=60)
            except threading.BrokenBarrierError:
                return self.send(400, b"alone")
        if self.site.signed and urlsplit(self.path).query != f"signature=of-{name.lstrip('/')}":
            return self.send(403, b"signature")
        if not file.is_file():
            return self.send(self.site.odd.get(path, 404), b"<html>no such page</html>")
        data = file.read_bytes()
        tag = self.tag(file, data)
        if self.headers.get("If-Match", tag) != tag:
            return self.send(412, b"changed")
        headers = {"Last-Modified": formatdate(file.stat().st_mtime, usegmt=True)} | ({"ETag": tag} if tag else {})
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked is None or self.site.whole_only:
            return self.send(200, data, headers)
        start, stop = int(asked[1]), min(int(asked[2] or len(data) - 1) + 1, len(data))
        if start >= len(data):
            return self.send(416, b"", {"Content-Range": f"bytes */{len(data)}"})
        self.send(206, data[start:stop], {**headers, "Content-Range": f"bytes {start}-{stop - 1}/{len(data)}"})

    def tag(self, file: Path, data: bytes) -> str:
        if self.site.tags == "time and size":
            return f'"{int(file.stat().st_mtime):x}-{len(data):x}"'
        return f'"{hashlib.md5(data).hexdigest()}"' if self.site.tags else ""

    def answer_hub(self, rest: str) -> None:
        root = self.site.root
        if rest == "" or rest == "/revision/main":
            about = {"id": REPO, "sha": COMMIT, "cardData": self.site.card, "siblings": [], "tags": []}
            return self.send(200, json.dumps(about).encode())
        if not rest.startswith(f"/tree/{COMMIT}"):
            return self.send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        folder = root / rest.removeprefix(f"/tree/{COMMIT}").strip("/")
        if not folder.is_dir():
            return self.send(404, b"{}", {"X-Error-Code": "EntryNotFound"})
        entries = [self.entry(file) for file in sorted(folder.iterdir())]
        first = int(parse_qs(urlsplit(self.path).query).get("cursor", ["0"])[0])
        url = f"{self.site.url}{urlsplit(self.path).path}?cursor={first + PAGE}"
        more = {"Link": f'<{url}>; rel="next"'} if first + PAGE < len(entries) else {}
        self.send(200, json.dumps(entries[first : first + PAGE]).encode(), more)

    def entry(self, file: Path) -> dict[str, Any]:
        """A file or a folder as the hub lists it; its larger files are in LFS."""
        path = file.relative_to(self.site.root).as_posix()
        if file.is_dir():
            return {"type": "directory", "path": path, "oid": "0"}
        data = file.read_bytes()
        found = {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
        if file.suffix in (".parquet", ".tar"):
            found["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 100}
        return found

    def send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        path = unquote(urlsplit(self.path).path)
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.site.breaks[path] > 0 and len(body) > 1:
            self.site.breaks[path] -= 1
            body = body[: len(body) // 2]
            self.close_connection = True
        if self.command != "HEAD":
            self.site.bytes[path] += len(body)
            self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass
