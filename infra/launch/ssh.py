"""All hosts of a run started from one place by ssh: on each of them ``python -m infra.launch.ssh``, told what to do on
its standard input.

DeepSpeed's launcher has ssh by way of pdsh too. It puts environment variables, secrets among them, on command lines,
and does not wait for processes that save their state when they are ended. Here nothing but paths is on a command line,
and a host ends its processes as one machine does, when the connection or the one who started it is gone.
"""

from __future__ import annotations

import json
import os
import select
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from infra.ending import exit_if_ending, saved_first
from infra.environment import SAFE_PATH
from infra.launch import local
from infra.launch.errors import LaunchError, is_echo
from infra.launch.hostfile import Host, Topology

SSH = ("ssh", "-T", "-o", "BatchMode=yes", "-o", "ConnectTimeout=20", "-o", "ServerAliveInterval=20")
SENT = (
    "AWS_",
    "DS_",
    "FI_",
    "GLOO_",
    "HF_",
    "LD_LIBRARY_PATH",
    "LLMDIFF_",
    "NCCL_",
    "OMP_",
    "PYTHON",
    "TORCH_",
    "UCX_",
)
"""Beginnings of the names of environment variables that every host gets."""
EXTRA_SECONDS = 10.0
"""Seconds beyond `infra.launch.local.GRACE_SECONDS` that a host gets to kill what it must and say so."""


@dataclass
class Node:
    """A host at work: its ssh client, and what that and the host's own start print."""

    host: Host
    child: subprocess.Popen[bytes]
    printed: IO[bytes]

    @property
    def error(self) -> str:
        """The error that the host's start, or ssh, printed."""
        self.printed.seek(0)
        lines = self.printed.read().decode(errors="replace").strip().splitlines()
        shown = [line for line in lines if line.startswith("error: ")] or lines or ["nothing was printed"]
        return f"{self.host.name}: {shown[-1].removeprefix('error: ')}"


def run_on_hosts(
    module: str, arguments: list[str], *, topology: Topology, log: Path, poll: Callable[[], None], interval: float = 0.5
) -> None:
    """Run a module as `infra.launch.local.run_workers` does, on every host of a topology, each reached by ssh.

    Python, this checkout and the working directory are at the same paths on each host, and the log's folder is shared.
    """
    nodes: list[Node] = []
    seconds = local.GRACE_SECONDS + EXTRA_SECONDS
    with saved_first(lambda: asked_to_end(nodes), seconds):
        try:
            for rank in range(len(topology.hosts)):
                nodes.append(start(rank, module, arguments, topology, log))
            while any(node.child.poll() is None for node in nodes) and not failed(nodes):
                poll()
                exit_if_ending()
                time.sleep(interval)
            poll()
        finally:
            if not end(nodes, seconds):
                raise LaunchError(f"hosts did not end within {local.GRACE_SECONDS:.0f} s: their ssh was killed")
    errors = [node.error for node in failed(nodes)]
    if errors:
        raise LaunchError(next((error for error in reversed(errors) if not is_echo(error)), errors[0]))


def start(rank: int, module: str, arguments: list[str], topology: Topology, log: Path) -> Node:
    """Start the processes of one host."""
    root = Path(__file__).resolve().parents[2]
    command = f"cd {shlex.quote(str(Path.cwd()))} && exec env {SAFE_PATH}=1 PYTHONPATH={shlex.quote(str(root))} "
    command += f"{shlex.quote(sys.executable)} -m infra.launch.ssh"
    printed = tempfile.TemporaryFile()  # noqa: SIM115 the node has it
    child = subprocess.Popen(
        [*SSH, topology.hosts[rank].name, command],
        stdin=subprocess.PIPE,
        stdout=printed,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # Ctrl-C is for this process, which ends the hosts in order
    )
    request = {"module": module, "arguments": arguments, "hosts": topology.hosts, "rank": rank, "port": topology.port}
    request |= {"log": str(log.resolve()), "environment": sent_environment()}
    assert child.stdin is not None
    with suppress(BrokenPipeError):  # its error says more
        child.stdin.write(f"{json.dumps(request)}\n".encode())
        child.stdin.flush()
    return Node(topology.hosts[rank], child, printed)


def sent_environment() -> dict[str, str]:
    """Return what every host gets of this process's environment; credentials of an object store are in it."""
    return {name: value for name, value in os.environ.items() if name.startswith(SENT)}


def failed(nodes: list[Node]) -> list[Node]:
    """Return the hosts that ended with an error."""
    return [node for node in nodes if node.child.returncode not in (None, 0)]


def asked_to_end(nodes: list[Node]) -> bool:
    """Ask every host to end its processes, and return whether any is still there."""
    for node in nodes:
        assert node.child.stdin is not None
        with suppress(BrokenPipeError):
            node.child.stdin.close()  # which the host takes as a request to end
    return any(node.child.poll() is None for node in nodes)


def end(nodes: list[Node], seconds: float) -> bool:
    """Have every host end its processes, and wait; return False where that took too long."""
    deadline = time.monotonic() + seconds
    while (some_left := asked_to_end(nodes)) and time.monotonic() < deadline:
        time.sleep(0.05)
    for node in nodes:
        node.child.kill()  # which does nothing to one that has ended
        node.child.wait()
    return not some_left


class Ended(Exception):
    """The one who started this host wants it to end."""


def main() -> int:
    """Run one host's part; its processes are ended, with their state saved, when standard input is closed."""
    request = json.loads(read_line())
    os.environ.update(request["environment"])
    log, hosts = Path(request["log"]), tuple(Host(*host) for host in request["hosts"])
    topology = Topology(processes=sum(h.slots for h in hosts), hosts=hosts, rank=request["rank"], port=request["port"])
    try:
        check_shared(log.parent)
        local.run_workers(request["module"], request["arguments"], topology=topology, log=log, poll=until_ended)
    except Ended:
        return 0
    except (LaunchError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def check_shared(folder: Path) -> None:
    """Raise ValueError where the run's folder is not seen here."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder: expected one on a path that all hosts share")


def read_line() -> bytes:
    """Return a line of standard input, and read nothing after it."""
    line = b""
    while not line.endswith(b"\n"):
        if not (byte := os.read(0, 1)):
            raise EOFError("expected a line of JSON on standard input")
        line += byte
    return line


def until_ended() -> None:
    """Raise `Ended` once standard input is closed."""
    if select.select([0], [], [], 0)[0] and not os.read(0, 1):
        raise Ended


if __name__ == "__main__":
    sys.exit(main())
