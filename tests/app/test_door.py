"""Who may see the page: its login, foreign names and origins, and what is said of an open door."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from starlette.datastructures import Headers

from infra import ending
from infra.service.guard import Guard
from pipelines.app import server
from pipelines.app.server import LOGIN, build_app, check_address, read_login, warn_of_open_door
from pipelines.cli.main import main
from pipelines.requests.app import AppRequest


@pytest.mark.parametrize(
    ("host", "origin", "refused"),
    [
        ("127.0.0.1:7860", None, None),
        ("localhost:7860", "http://localhost:7860", None),
        ("[::1]:7860", None, None),
        ("evil.example:7860", None, "asked as 'evil.example:7860'"),
        ("127.0.0.1:7860", "http://evil.example", "asked by a page of http://evil.example"),
        ("127.0.0.1:7860", "http://127.0.0.1:8000", "asked by a page of"),
        ("127.0.0.1:7860", "null", "asked by a page of null"),
        ("", None, "asked as ''"),
    ],
)
def test_foreign_names_and_origins_are_refused(host: str, origin: str | None, refused: str | None) -> None:
    passed: list[str] = []

    async def page(scope: Any, receive: Any, send: Any) -> None:
        passed.append(scope["type"])

    headers = {"host": host, **({"origin": origin} if origin else {})}
    guard = Guard(page, frozenset(("localhost",)))
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "http", "headers": Headers(headers).raw}
    asyncio.run(guard(scope, None, send))
    assert passed == ([] if refused else ["http"])
    if refused:
        assert sent[0]["status"] == 403
        assert refused in sent[1]["body"].decode()


def test_the_page_takes_no_files_and_gives_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gradio", reason="llmdiff[app] is not installed")
    from starlette.testclient import TestClient

    for name in ("GRADIO_TEMP_DIR", "GRADIO_ANALYTICS_ENABLED"):
        monkeypatch.setenv(name, "")  # put back afterwards
    monkeypatch.setenv("LLMDIFF_HOME", str(tmp_path))
    (tmp_path / "private.txt").write_text("secret")
    monkeypatch.chdir(tmp_path)
    asked = TestClient(build_app(AppRequest(), None), base_url="http://127.0.0.1:7860")
    assert asked.get("/").status_code == 200
    assert asked.post("/gradio_api/upload", files={"files": ("a.html", b"x" * 100)}).status_code == 413
    assert list((tmp_path / "app").rglob("*.html")) == []
    for name in (tmp_path / "private.txt", "private.txt", "/etc/passwd"):
        assert asked.get(f"/gradio_api/file={name}").status_code == 403
    assert asked.get("/", headers={"host": "evil.example"}).status_code == 403


def test_a_signal_ends_the_page_as_it_ends_other_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server keeps it for itself and returns, as if nobody had asked for the end."""
    monkeypatch.setattr(server, "build_app", lambda request, login: None)
    monkeypatch.setattr(server, "check_address", lambda host, port: None)
    monkeypatch.setattr(ending, "_received", [])
    monkeypatch.setattr("uvicorn.run", lambda app, **options: ending._received.append(signal.SIGINT))
    with pytest.raises(SystemExit) as ended:
        server.serve(AppRequest())
    assert ended.value.code == 130


def test_the_login_is_one_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(LOGIN, raising=False)
    assert read_login() is None
    monkeypatch.setenv(LOGIN, "ada:se:cret")
    assert read_login() == ("ada", "se:cret")
    for wrong, lacks in (("ada", "password"), ("ada:", "password"), (":secret", "user")):
        monkeypatch.setenv(LOGIN, wrong)
        with pytest.raises(ValueError, match=f"{LOGIN}: expected user:password, found no {lacks}"):
            read_login()


def test_an_open_door_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    warn_of_open_door("127.0.0.1", None)
    assert capsys.readouterr().err == ""
    warn_of_open_door("0.0.0.0", ("ada", "secret"))
    assert capsys.readouterr().err == "The page listens on 0.0.0.0: other machines reach it\n"
    warn_of_open_door("0.0.0.0", None)
    assert "warning: it asks for no login" in capsys.readouterr().err


def test_an_address_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match=r"--host: expected an address such as 127.0.0.1 or 0.0.0.0, found 'here'"):
        check_address("here", 7860)


def test_the_command_names_what_is_missing(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)  # as if it were not installed
    with pytest.raises(SystemExit):
        main(["app"])
    assert capsys.readouterr().err == "error: this needs Gradio: pip install 'llmdiff[app]'\n"
