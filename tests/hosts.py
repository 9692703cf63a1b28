"""Two hosts on this machine: network namespaces with a wire between them, or two addresses of loopback."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from llmdiff.process.tcp_ports import free_port


class Hosts(NamedTuple):
    """What starts a process on each of them, and how they find one another."""

    addresses: tuple[str, str]
    enter: tuple[list[str], list[str]]
    environment: dict[str, str]

    def hostfile(self, path: Path) -> str:
        path.write_text("".join(f"{address} slots=1\n" for address in self.addresses))
        return str(path)

    def port(self) -> str:
        """Free on the first host: in a namespace of its own nothing else listens."""
        return str(free_port())


@contextmanager
def two_hosts() -> Iterator[Hosts]:
    names = (f"llmdiff-{os.getpid()}-0", f"llmdiff-{os.getpid()}-1")
    have_namespaces = all(ip("netns", "add", name) for name in names)
    try:
        yield wired(*names) if have_namespaces else on_loopback()
    finally:
        for name in names:
            for pid in inside(name):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            ip("netns", "del", name)


def wired(one: str, other: str) -> Hosts:
    addresses = ("10.77.0.1", "10.77.0.2")
    assert ip("link", "add", "wire", "netns", one, "type", "veth", "peer", "name", "wire", "netns", other)
    for name, address in zip((one, other), addresses, strict=True):
        assert ip("-n", name, "addr", "add", f"{address}/24", "dev", "wire")
        assert ip("-n", name, "link", "set", "wire", "up")
        assert ip("-n", name, "link", "set", "lo", "up")
    enter = (["ip", "netns", "exec", one], ["ip", "netns", "exec", other])
    return Hosts(addresses, enter, {"GLOO_SOCKET_IFNAME": "wire"})


def on_loopback() -> Hosts:
    return Hosts(("127.0.0.1", "127.0.0.2"), ([], []), {})


def ip(*arguments: str) -> bool:
    """False where this machine has no namespaces for this user, or no ``ip``."""
    try:
        return subprocess.run(["ip", *arguments], capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


def inside(name: str) -> list[int]:
    """The processes in a namespace."""
    with suppress(FileNotFoundError):
        listed = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True)
        return [int(pid) for pid in listed.stdout.split()]
    return []
