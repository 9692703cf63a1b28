"""A server on loopback that speaks the hub's protocol for a model's files: look up, download, create, commit."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import unquote, urlsplit

from tests.http_servers import serving

REPO = "ada/shapes-adapter"


class ModelHub:
    """Repositories: files by commit, of which the last is `main`; and what was asked for."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.commits: list[dict[str, bytes]] = []
        self.asked: list[str] = []
        self.private: bool | None = None

    def files(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """The commit of a revision and its files; None where there is none."""
        if revision == "main" and self.commits:
            revision = sha(len(self.commits) - 1)
        found = [i for i in range(len(self.commits)) if sha(i) == revision]
        return (revision, self.commits[found[0]]) if found else None


def sha(commit: int) -> str:
    return hashlib.sha1(str(commit).encode()).hexdigest()


@contextmanager
def model_hub() -> Iterator[ModelHub]:
    with serving(_Handler) as (server, address):
        server.hub = ModelHub(address)  # type: ignore[attr-defined]
        yield server.hub  # type: ignore[attr-defined]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def hub(self) -> ModelHub:
        return self.server.hub  # type: ignore[attr-defined,no-any-return]

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        repo, _, rest = path.lstrip("/").partition("/resolve/")
        revision, _, name = rest.partition("/")
        if self.command == "GET":
            self.hub.asked.append(name)
        if repo != REPO:
            return self.send(404, b"", {"X-Error-Code": "RepoNotFound"})
        if (found := self.hub.files(revision)) is None:
            return self.send(404, b"", {"X-Error-Code": "RevisionNotFound"})
        commit, files = found
        if name not in files:
            return self.send(404, b"", {"X-Error-Code": "EntryNotFound"})
        tag = f'"{hashlib.sha1(files[name]).hexdigest()}"'
        self.send(200, files[name], {"X-Repo-Commit": commit, "ETag": tag})

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        path = urlsplit(self.path).path
        if path == "/api/validate-yaml":  # of a model card
            return self.answer({"errors": [], "warnings": []})
        if path == "/api/repos/create":
            self.hub.private = json.loads(body).get("private")
            return self.answer({"url": f"{self.hub.url}/{REPO}", "id": REPO, "name": REPO})
        if path.startswith(f"/api/models/{REPO}/preupload/"):
            names = [file["path"] for file in json.loads(body)["files"]]
            return self.answer(
                {"files": [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]}
            )
        if path.startswith(f"/api/models/{REPO}/commit/"):
            lines = [json.loads(line) for line in body.splitlines()]
            new = {
                line["value"]["path"]: base64.b64decode(line["value"]["content"])
                for line in lines
                if line["key"] == "file"
            }
            self.hub.commits.append({**(self.hub.commits[-1] if self.hub.commits else {}), **new})
            oid = sha(len(self.hub.commits) - 1)
            return self.answer({"commitUrl": f"{self.hub.url}/{REPO}/commit/{oid}", "commitOid": oid, "success": True})
        self.send(404, b"{}")

    def answer(self, value: dict[str, Any]) -> None:
        self.send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass
