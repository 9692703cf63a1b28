"""Training processes: DeepSpeed's launcher as a child, its output kept, its end passed on in both directions."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from infra.launch.errors import LaunchError, error_of, errors_in, is_echo
from infra.launch.hostfile import Topology
from llmdiff.ports import free_port, is_free

GRACE_SECONDS = 60.0
"""How long a cancelled run may take to save its state before it is killed."""


def launch_command(module: str, arguments: list[str], topology: Topology, hostfile: str = "") -> list[str]:
    """DeepSpeed's launcher for this host's processes; of several hosts, each runs a launcher of its own."""
    launcher = [sys.executable, "-m", "deepspeed.launcher.runner"]
    if topology.hosts:
        where = ["--hostfile", hostfile, "--no_ssh", "--node_rank", str(topology.rank)]
        where += ["--master_addr", topology.hosts[0].name, "--master_port", str(topology.port)]
    else:
        where = ["--num_accelerators", str(topology.processes), "--master_addr", "127.0.0.1"]
        where += ["--master_port", str(free_port())]
    return [*launcher, *where, "--module", module, *arguments]


def launch_environment() -> dict[str, str]:
    """The environment of the workers: this checkout first on the path, and the CPU where there is no GPU."""
    environment = dict(os.environ)
    root = str(Path(__file__).resolve().parents[2])
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (root, environment.get("PYTHONPATH"))))
    environment["PYTHONUNBUFFERED"] = "1"
    if not has_gpu():
        environment.setdefault("DS_ACCELERATOR", "cpu")
    return environment


def run_workers(
    module: str, arguments: list[str], *, topology: Topology, log: Path, poll: Callable[[], None], interval: float = 0.5
) -> None:
    """Runs a module under DeepSpeed's launcher on this host until it ends, calling `poll` meanwhile.

    Args:
        module: what each process runs, as ``python -m`` would.
        arguments: of the module.
        topology: how many processes; of several hosts, which one this is.
        log: gets everything they print, on each further host a file of its own beside it. Their standard input stays
            open while this process lives, however it ends.
        poll: called every `interval` seconds and once at the end, to report progress.
        interval: seconds.

    Raises:
        ValueError: this host can't take its part.
        LaunchError: a process failed. An exception in this process (Ctrl-C, a cancelled flow) ends the workers first;
            LaunchError too where they had to be killed.
    """
    check_host(topology)
    log.parent.mkdir(parents=True, exist_ok=True)
    with topology.log(log).open("wb" if topology.rank else "ab") as output, written_hostfile(topology) as hostfile:
        start = output.tell()
        child = subprocess.Popen(
            launch_command(module, arguments, topology, hostfile),
            env=launch_environment(),
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # its own process group, so that all of it can be ended at once
        )
        try:
            while child.poll() is None:
                poll()
                time.sleep(interval)
            poll()
        finally:
            if not end_workers(child, GRACE_SECONDS):
                raise LaunchError(f"the training processes did not end within {GRACE_SECONDS:.0f} s, and were killed")
    if child.returncode != 0:
        printed = topology.log(log).read_bytes()[start:].decode(errors="replace")
        failure = LaunchError(reason(printed, child.returncode, topology, log))
        failure.add_note(f"What the training processes printed ({log}):\n{printed}")  # shown with a traceback alone
        raise failure


def check_host(topology: Topology) -> None:
    """ValueError where this host, one of several, has too few GPUs, or the port of the first one is taken."""
    if not topology.hosts:
        return
    host = topology.hosts[topology.rank or 0]
    if has_gpu() and (found := gpus()) < host.slots:
        raise ValueError(f"{host.name}: expected a GPU for each of {host.slots} slots, found {found}")
    if topology.rank == 0 and not is_free(topology.port):
        raise ValueError(f"{host.name}: port {topology.port} is taken: name another master port, one for all hosts")


@contextmanager
def written_hostfile(topology: Topology) -> Iterator[str]:
    """A hostfile for DeepSpeed's launcher, for as long as it may read it."""
    with tempfile.NamedTemporaryFile("w", prefix="hostfile-") as file:
        file.writelines(f"{host.name} slots={host.slots}\n" for host in topology.hosts)
        file.flush()
        yield file.name


def reason(printed: str, code: int, topology: Topology, log: Path) -> str:
    """The error of processes that failed; where the first host's only lost others, that of a further host."""
    message = error_of(printed, code, topology.log(log))
    if topology.rank == 0 and is_echo(message):
        for rank, host in enumerate(topology.hosts[1:], 1):
            path = replace(topology, rank=rank).log(log)
            errors = errors_in(path.read_text(errors="replace"), path) if path.exists() else []
            if own := [error for error in errors if not is_echo(error)]:
                return f"{host.name}: {own[-1]}"
    return message


def end_workers(child: subprocess.Popen[bytes], grace: float) -> bool:
    """Asks the workers below DeepSpeed's launcher to end, waits, and kills what is left; False where that was needed.

    The launcher itself is not asked: it would kill the workers after 30 seconds.
    """
    deadline = time.monotonic() + grace
    asked: set[int] = set()
    while child.poll() is None and time.monotonic() < deadline:
        for pid in set(workers_of(child.pid)) - asked:
            asked.add(pid)
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        time.sleep(0.05)
    in_time = child.poll() is not None
    end_group(child, grace=0.0 if not in_time else deadline - time.monotonic())
    return in_time


def workers_of(runner: int) -> list[int]:
    """The processes that DeepSpeed's runner started by way of its launcher."""
    with suppress(psutil.NoSuchProcess):
        return [worker.pid for launcher in psutil.Process(runner).children() for worker in launcher.children()]
    return []


def end_group(child: subprocess.Popen[bytes], grace: float = GRACE_SECONDS) -> None:
    """Asks a child's process group to end, waits, and kills what is left."""
    for number, seconds in ((signal.SIGTERM, grace), (signal.SIGKILL, 5.0)):
        deadline = time.monotonic() + seconds
        if not _signal_group(child.pid, number):
            break
        while time.monotonic() < deadline and _signal_group(child.pid, 0):
            child.poll()
            time.sleep(0.05)
    child.wait()


def _signal_group(group: int, number: int) -> bool:
    """Signals a process group; False where nothing is left of it."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    return True


def has_gpu() -> bool:
    """Whether torch sees a CUDA device; asked here, so that a command that needs no torch does not import it."""
    import torch

    return torch.cuda.is_available()


def gpus() -> int:
    """How many CUDA devices torch sees."""
    import torch

    return torch.cuda.device_count()
