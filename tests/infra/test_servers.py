"""What commands are going to ask: found where Prefect and MLflow find it, and asked before any work."""

from __future__ import annotations

import importlib.util
import os
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import httpx2
import obstore
import pytest
import requests
from obstore.store import S3Store

from infra import servers
from infra.environment import (
    PROXIES,
    both_cases,
    child_environment,
    isolate_process,
    isolation,
    tracking_uri,
    without_proxy,
)
from infra.servers import Setting, check_proxies, check_servers, prefect_server, proxy_before, silence
from infra.service.config import environment, read_service_config
from pipelines.cli import doctor
from tests.hub_models import REPO, ModelHub

DEAD = "http://127.0.0.1:9"
PROFILES = f"""active = "there"
[profiles.here]
[profiles.there]
PREFECT_API_URL = "{DEAD}/api"
"""


@pytest.fixture(autouse=True)
def nothing_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No server and no proxy, in a folder and a user's home of the test's own."""
    cases = both_cases((*PROXIES, "no_proxy"))
    for name in ("PREFECT_API_URL", "PREFECT_HOME", "PREFECT_PROFILE", "PREFECT_PROFILES_PATH", *cases):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    monkeypatch.chdir(tmp_path)


def test_prefects_server_is_found_where_prefect_finds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert prefect_server() is None
    ours = tmp_path / "runs" / "prefect" / "profiles.toml"
    ours.parent.mkdir(parents=True)
    ours.write_text(PROFILES)
    assert prefect_server() == Setting(f"{DEAD}/api", f"PREFECT_API_URL of the profile 'there' in {ours}")
    users = tmp_path / "user" / ".prefect" / "profiles.toml"
    users.parent.mkdir(parents=True)
    users.write_text(PROFILES)
    assert prefect_server() == Setting(f"{DEAD}/api", f"PREFECT_API_URL of the profile 'there' in {users}")
    monkeypatch.setenv("PREFECT_PROFILE", "here")
    assert prefect_server() is None
    (tmp_path / "prefect.toml").write_text('[api]\nurl = "http://flows/api"\n')
    assert prefect_server() == Setting("http://flows/api", "prefect.toml")
    (tmp_path / ".env").write_text("PREFECT_API_URL=http://dotted/api\n")
    assert prefect_server() == Setting("http://dotted/api", ".env")
    monkeypatch.setenv("PREFECT_API_URL", "http://other/api")
    found = prefect_server()
    assert found is not None
    assert found[:2] == ("http://other/api", "PREFECT_API_URL")


def test_a_server_that_does_not_answer_is_told_with_where_it_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    check_servers(tracking=True)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", DEAD)
    check_servers(tracking=False)
    with pytest.raises(ConnectionError, match=f"TRACKING_URI: MLflow's server {DEAD} does not answer: .*refused"):
        check_servers(tracking=True)
    monkeypatch.setenv("PREFECT_API_URL", f"{DEAD}/api")
    monkeypatch.setenv("http_proxy", "http://proxy.invalid:1")  # which loopback is not asked through
    with pytest.raises(ConnectionError, match="PREFECT_API_URL: Prefect's server .* does not answer: .*refused"):
        check_servers(tracking=False)


def test_a_server_of_this_machine_may_be_late(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()
    monkeypatch.setattr(servers, "_ask", lambda setting: ended.wait(60))
    monkeypatch.setattr(servers, "SECONDS", -1.4)  # not waited for here
    try:
        assert silence(Setting(f"{DEAD}/api", "")) is None
        assert "does not answer: nothing came" in (silence(Setting("http://flows.invalid/api", "")) or "")
    finally:
        ended.set()


def test_a_folder_is_no_tracking_server(monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("./mlruns", "file:///tmp/mlruns"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", folder)
        with pytest.raises(ValueError, match=f"MLFLOW_TRACKING_URI: expected a server's address .* found '{folder}'"):
            check_servers(tracking=True)
        assert not doctor.mlflow_server().fine
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    assert tracking_uri() == "file:///tmp/mlruns"


def test_doctor_looks_at_what_commands_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.prefect_server().fine
    assert doctor.proxy() == ("proxy", True, "none set")
    assert doctor.temporary().fine
    (tmp_path / "profiles.toml").write_text(PROFILES)
    monkeypatch.setenv("PREFECT_PROFILES_PATH", str(tmp_path / "profiles.toml"))
    assert doctor.prefect_server().detail.startswith(f"{DEAD}/api does not answer: ")
    assert not doctor.prefect_server().fine
    monkeypatch.setenv("https_proxy", f"{DEAD}/")
    assert doctor.proxy() == ("proxy", False, f"https_proxy: {DEAD}/ does not answer")
    monkeypatch.setenv("TMPDIR", str(tmp_path / "gone"))
    assert doctor.temporary().detail.endswith(f"found '{tmp_path / 'gone'}'")


def test_a_missing_package_for_a_proxy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:9")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="ALL_PROXY: a SOCKS proxy needs the package socksio"):
        check_servers(tracking=False)
    assert not doctor.proxy().fine


def test_loopback_is_asked_directly_and_the_working_directory_holds_no_modules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv("no_proxy", "10.0.0.1, localhost")
    monkeypatch.setenv("PYTHONSAFEPATH", "")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.9:5000")
    assert without_proxy(["127.0.0.1"]) == "10.0.0.1,localhost,127.0.0.1"
    served = environment(read_service_config(tmp_path))
    isolate_process()
    for env in (dict(os.environ), child_environment(), served):
        assert env["NO_PROXY"] == env["no_proxy"] == "10.0.0.1,localhost,127.0.0.1,::1,127.0.0.9"
        assert env["PYTHONSAFEPATH"] == "1"
    root = str(Path(servers.__file__).parents[1])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["/theirs", root]))
    assert child_environment()["PYTHONPATH"] == os.pathsep.join([root, "/theirs"])


@pytest.mark.parametrize(
    ("small", "capitals", "expected"),
    [
        ("", "", "localhost"),
        ("corp.example", "10.0.0.1", "corp.example,10.0.0.1,localhost"),
        ("a,*", "b", "*"),
        ("[::1],[fd00::1]:80,fe80::/10,::1/128", "", "::1,fd00::1,localhost"),
        ("10.0.0.0/8,*.corp,.corp,corp:8080,\u00e4.example", "", "10.0.0.0/8,*.corp,.corp,corp:8080,localhost"),
    ],
)
def test_what_is_asked_directly_stays_so_in_words_that_every_client_takes(
    monkeypatch: pytest.MonkeyPatch, small: str, capitals: str, expected: str
) -> None:
    monkeypatch.setenv("no_proxy", small)
    monkeypatch.setenv("NO_PROXY", capitals)
    listed = without_proxy(["localhost"])
    assert listed == expected
    monkeypatch.setenv("no_proxy", listed)
    httpx.Client(verify=False).close()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("socks4://127.0.0.1:9", "expected http://, https://, socks5://, socks5h://, found socks4://127.0.0.1:9"),
        ("ftp://u:secret@x", r"expected http://.*, found ftp://u:\*\*\*@x"),
        ("http://x:port", "expected a host and a port, found http://x:port"),
        ("http://[", r"expected a host and a port, found http://\["),
    ],
)
def test_a_proxy_that_no_client_takes_is_named(monkeypatch: pytest.MonkeyPatch, url: str, message: str) -> None:
    monkeypatch.setenv("https_proxy", url)
    with pytest.raises(ValueError, match=f"^https_proxy: {message}"):
        check_servers(tracking=False)
    assert not doctor.proxy().fine


def test_a_server_behind_a_socks_proxy_may_need_another_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://runs.invalid")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "socks" else name)
    with pytest.raises(ValueError, match="MLflow's server http://runs.invalid is behind a SOCKS proxy, .* PySocks"):
        check_servers(tracking=True)
    monkeypatch.setenv("no_proxy", "runs.invalid")
    assert proxy_before("http://runs.invalid") == ""


@contextmanager
def listening() -> Iterator[tuple[int, list[bytes]]]:
    """A proxy that notes how each connection begins, and hangs up."""
    heard: list[bytes] = []

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            heard.append(self.request.recv(64))

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.server_address[1], heard
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("scheme", ["socks", "socks5h", "http"])
def test_loopback_is_never_asked_through_a_proxy(
    hub_server: ModelHub, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    """No client asks through it: for servers and data, of the hub, of MLflow, of buckets."""
    hub_server.commits = [{"a": b"1"}]
    file = f"{hub_server.url}/{REPO}/resolve/main/a"
    with listening() as (port, heard):
        for name in PROXIES:
            monkeypatch.setenv(name.upper(), f"{scheme}://127.0.0.1:{port}")
        for name, value in isolation().items():
            monkeypatch.setenv(name, value)
        check_proxies()
        assert silence(Setting(hub_server.url, "", "/", login="x")) == "does not answer: HTTP 404"
        for answer in (httpx.get(file), httpx2.get(file), requests.get(file)):
            assert answer.content == b"1"
        bucket = S3Store("b", endpoint=hub_server.url, client_options={"allow_http": True}, skip_signature=True)
        with pytest.raises(FileNotFoundError):
            obstore.head(bucket, "a")
        assert heard == []
        assert "does not answer" in (silence(Setting("http://flows.invalid/api", "")) or "")
        assert len(heard) == 1
