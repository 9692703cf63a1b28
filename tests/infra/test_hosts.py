"""Runs over several hosts: the hostfile, hosts started from one place, a host that loses another one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from infra.launch.errors import LaunchError, error_of, is_echo
from infra.launch.hostfile import Host, Topology, read_hostfile, topology_of
from infra.launch.local import reason
from infra.launch.ssh import SSH, run_on_hosts
from tests.hosts import Hosts, two_hosts

ROOT = Path(__file__).resolve().parents[2]


def test_a_hostfile_says_who_runs_how_much(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_text("# two machines\nworker-1 slots=8\n\n10.0.0.2   slots=4  # the small one\n")
    assert read_hostfile(path) == (Host("worker-1", 8), Host("10.0.0.2", 4))
    assert topology_of(1, path, None, 29500).processes == topology_of(12, path, 1, 29500).processes == 12


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a slots=1\nb slot=2\n", "hosts, line 2: expected a host such as 'worker-1 slots=8', found 'b slot=2'"),
        ("a\n", "line 1: expected a host"),
        ("a slots=0\n", "line 1: expected a host"),
        ("-oProxyCommand=x slots=1\n", "line 1: expected a host"),
        ("a slots=1\n# b\na slots=2\n", "line 3: a is in line 1 already"),
        ("# none\n", "expected a line for each host such as 'worker-1 slots=8', found none"),
    ],
)
def test_a_wrong_hostfile_is_refused_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "hosts"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_hostfile(path)


@pytest.mark.parametrize(
    ("processes", "rank", "message"),
    [(2, None, "has 3 slots, found 2 processes"), (1, 2, "expected a node rank from 0 to 1, found 2")],
)
def test_wishes_that_contradict_a_hostfile_are_refused(
    tmp_path: Path, processes: int, rank: int | None, message: str
) -> None:
    path = tmp_path / "hosts"
    path.write_text("a slots=1\nb slots=2\n")
    with pytest.raises(ValueError, match=message):
        topology_of(processes, path, rank, 29500)
    with pytest.raises(ValueError, match="expected a hostfile"):
        topology_of(1, None, 0, 29500)


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    with two_hosts() as hosts:
        yield hosts


@pytest.fixture
def ssh(hosts: Hosts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """`ssh` that reaches both hosts: the real one where there is an sshd to start, else one that enters them."""
    command = tmp_path / "bin" / "ssh"
    command.parent.mkdir()
    sshd = shutil.which("sshd") if hosts.enter[0] else None
    daemons = start_sshd(sshd, hosts, tmp_path) if sshd is not None else []
    command.write_text(real_ssh(hosts, tmp_path) if sshd is not None else entering(hosts))
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{command.parent}:{os.environ['PATH']}")
    yield command
    for daemon in daemons:
        daemon.kill()
        daemon.wait()


def start_sshd(sshd: str, hosts: Hosts, folder: Path) -> list[subprocess.Popen[bytes]]:
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    Path("/run/sshd").mkdir(exist_ok=True)
    options = [f"AuthorizedKeysFile={folder}/user.pub", "StrictModes=no", "PidFile=none", "PermitRootLogin=yes"]
    start = [sshd, "-D", "-f", "/dev/null", "-h", str(folder / "host"), *(p for o in options for p in ("-o", o))]
    return [subprocess.Popen([*enter, *start]) for enter in hosts.enter]


def real_ssh(hosts: Hosts, folder: Path) -> str:
    """Run ssh from the first host, for this process is on none of them."""
    options = "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR -o ConnectionAttempts=20"
    return f'#!/bin/sh\nexec {" ".join(hosts.enter[0])} {shutil.which("ssh")} -i {folder}/user {options} "$@"\n'


def entering(hosts: Hosts) -> str:
    cases = "".join(
        f'{address}) exec {" ".join(enter)} sh -c "$2";;\n'
        for address, enter in zip(hosts.addresses, hosts.enter, strict=True)
    )
    return f'#!/bin/sh\nshift {len(SSH) - 1}\ncase "$1" in\n{cases}esac\n'


def ranks(folder: Path) -> list[list[str]]:
    """Return each rank's pid, world size, accelerator, first host, secret."""
    return [path.read_text().split() for path in sorted(folder.glob("rank-*"))]


def test_hosts_started_from_one_place_save_when_it_ends(
    hosts: Hosts, ssh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "known-to-the-ranks-alone")
    topology = topology_of(1, hosts.hostfile(tmp_path / "hosts"), None, int(hosts.port()))
    arguments = [str(tmp_path / "run"), "sleep"]
    (tmp_path / "run").mkdir()
    command_lines: list[str] = []

    def interrupt() -> None:
        if len(ranks(tmp_path / "run")) == 2:
            command_lines.extend(" ".join(p.info["cmdline"] or []) for p in psutil.process_iter(["cmdline"]))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_on_hosts(
            "tests.infra.rank", arguments, topology=topology, log=tmp_path / "run" / "train.log", poll=interrupt
        )
    assert sorted(path.name for path in (tmp_path / "run").glob("saved-*")) == ["saved-0", "saved-1"]
    assert not any(psutil.pid_exists(int(pid)) for pid, *_ in ranks(tmp_path / "run"))
    for _, size, _, first, secret in ranks(tmp_path / "run"):
        assert (size, first, secret) == ("2", hosts.addresses[0], "known-to-the-ranks-alone")
    assert any("infra.launch.ssh" in line for line in command_lines)
    assert not any("known-to-the-ranks-alone" in line for line in command_lines)
    for name in ("train.log", "train-1.log"):
        assert "speaks" in (tmp_path / "run" / name).read_text()


def test_what_ssh_says_is_told(ssh: Path, tmp_path: Path) -> None:
    ssh.write_text("#!/bin/sh\necho 'ssh: connect to host nowhere port 22: Connection refused' >&2\nexit 255\n")
    topology = Topology(processes=1, hosts=(Host("nowhere", 1),))
    with pytest.raises(LaunchError, match="^nowhere: ssh: connect to host nowhere port 22: Connection refused"):
        run_on_hosts("tests.infra.rank", [], topology=topology, log=tmp_path / "log", poll=lambda: None, interval=0.05)


def test_a_host_that_loses_another_one_tells_what_happened_there(hosts: Hosts, tmp_path: Path) -> None:
    topology = topology_of(1, hosts.hostfile(tmp_path / "hosts"), 0, int(hosts.port()))
    log, both = tmp_path / "train.log", {"WORLD_SIZE": "2", "MASTER_ADDR": hosts.addresses[0], "LOCAL_RANK": "0"}
    both |= {"MASTER_PORT": str(topology.port), "PYTHONPATH": str(ROOT), **hosts.environment}
    started = []
    for rank, enter in enumerate(hosts.enter):
        command = [*enter, sys.executable, "-m", "tests.infra.rank", str(tmp_path), "lose"]
        with replace(topology, rank=rank).log(log).open("wb") as file:
            environment = {**os.environ, **both, "RANK": str(rank)}
            started.append(subprocess.Popen(command, env=environment, cwd=ROOT, stdout=file, stderr=file))
    try:
        assert [child.wait(200) for child in started] == [1, 1]
    finally:
        for child in started:
            child.kill()
    assert is_echo(error_of(log.read_text(), 1, log))
    told = reason(log.read_text(), 1, topology, log)
    assert told.startswith(f"{hosts.addresses[1]}: [rank1]: KeyError: 'the real reason' (whole output: ")
