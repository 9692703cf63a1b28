"""What commands are going to ask: found where Prefect and MLflow find it, and asked before any work."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

from infra import servers
from infra.environment import child_environment, isolate_process, tracking_uri, without_proxy
from infra.servers import Setting, check_servers, prefect_server
from infra.service.config import environment, read_service_config
from pipelines.cli import doctor

DEAD = "http://127.0.0.1:9"
PROFILES = f"""active = "there"
[profiles.here]
[profiles.there]
PREFECT_API_URL = "{DEAD}/api"
"""


@pytest.fixture(autouse=True)
def nothing_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No server and no proxy, in a folder and a user's home of the test's own."""
    cases = (name for proxy in servers.PROXIES for name in (proxy, proxy.upper()))
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
    assert without_proxy(["127.0.0.1"]) == "10.0.0.1,localhost,127.0.0.1"
    served = environment(read_service_config(tmp_path))
    isolate_process()
    for env in (dict(os.environ), child_environment(), served):
        assert env["NO_PROXY"] == env["no_proxy"] == "10.0.0.1,localhost,127.0.0.1,::1"
        assert env["PYTHONSAFEPATH"] == "1"
    root = str(Path(servers.__file__).parents[1])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["/theirs", root]))
    assert child_environment()["PYTHONPATH"] == os.pathsep.join([root, "/theirs"])
