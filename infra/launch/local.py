"""Training processes as children, one or DeepSpeed's launcher of several: output kept, the end passed on both ways."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from infra.ending import exit_if_ending, saved_first
from infra.environment import child_environment
from infra.launch.errors import LaunchError, error_of, errors_in, is_echo
from infra.launch.hostfile import Host, Topology
from llmdiff.process.tcp_ports import free_port, is_free

GRACE_SECONDS = 60.0
"""Seconds that a cancelled run may take to save its state before it is killed."""
KEPT_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(1 << 30)}
"""Settings that have the C library keep freed memory for the next step: the kernel would clear its pages each time."""


def launch_command(module: str, arguments: list[str], topology: Topology) -> list[str]:
    """Return the command of this host's processes: DeepSpeed's launcher of several, and one alone as it would start it.

    Alone, it saves what the launcher costs: another interpreter that imports DeepSpeed. It needs `launch_environment`.
    DeepSpeed's runner, which starts the launcher, is left out: it imports DeepSpeed once more to work out what is known
    here, and has no regard for ``CUDA_VISIBLE_DEVICES`` where it is told how many devices to use.
    """
    if is_alone(topology):
        return [sys.executable, "-u", "-m", module, "--local_rank=0", *arguments]
    slots = {host.name: [str(number) for number in range(host.slots)] for host in topology.hosts}
    slots = slots or {"localhost": devices(topology.processes)}
    world = base64.urlsafe_b64encode(json.dumps(slots).encode()).decode()
    address, port = master(topology)
    where = [f"--world_info={world}", f"--node_rank={topology.rank or 0}"]
    where += [f"--master_addr={address}", f"--master_port={port}"]
    return [sys.executable, "-u", "-m", "infra.launch.launcher", *where, "--module", module, *arguments]


def is_alone(topology: Topology) -> bool:
    """Return whether a run is one process on this machine, which needs no launcher."""
    return topology.processes == 1 and not topology.hosts


def master(topology: Topology) -> tuple[str, int]:
    """Return where the processes find one another: on the first host, or at a free port of this machine."""
    return (topology.hosts[0].name, topology.port) if topology.hosts else ("127.0.0.1", free_port())


def devices(count: int) -> list[str]:
    """Return the names of so many devices: the first ones that this process may see."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",")[:count] if visible else [str(number) for number in range(count)]


def first_device() -> str:
    """Return the name of the first device that this process may see; empty where it may see none."""
    return os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]


def launch_environment(topology: Topology) -> dict[str, str]:
    """Return the environment of this host's processes: our own packages first; for the launcher, whether it has GPUs.

    One process alone finds in it what DeepSpeed's launcher would add for it, and looks for a GPU itself.
    """
    environment = {**KEPT_MEMORY, **child_environment(), "PYTHONUNBUFFERED": "1"}
    if is_alone(topology):
        address, port = master(topology)
        environment |= {"CUDA_VISIBLE_DEVICES": first_device(), "MASTER_ADDR": address, "MASTER_PORT": str(port)}
        environment |= dict.fromkeys(("RANK", "LOCAL_RANK", "CROSS_RANK"), "0")
        environment |= dict.fromkeys(("WORLD_SIZE", "LOCAL_SIZE", "CROSS_SIZE"), "1")
    elif not has_gpu():
        environment.setdefault("DS_ACCELERATOR", "cpu")
    return environment


def run_workers(
    module: str, arguments: list[str], *, topology: Topology, log: Path, poll: Callable[[], None], interval: float = 0.5
) -> None:
    """Run a module in this host's processes until they end, calling `poll` meanwhile.

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
    with topology.log(log).open("wb" if topology.rank else "ab") as output:
        start = output.tell()
        child = subprocess.Popen(
            launch_command(module, arguments, topology),
            env=launch_environment(topology),
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # its own process group, so that all of it can be ended at once
        )
        asked = ender(child, topology)
        with saved_first(asked, GRACE_SECONDS):
            try:
                while child.poll() is None:
                    poll()
                    exit_if_ending()
                    time.sleep(interval)
                poll()
            finally:
                if not end_workers(child, asked, GRACE_SECONDS):
                    message = f"the training processes did not end within {GRACE_SECONDS:.0f} s, and were killed"
                    raise LaunchError(message)
    if child.returncode != 0:
        printed = topology.log(log).read_bytes()[start:].decode(errors="replace")
        failure = LaunchError(reason(printed, child.returncode, topology, log))
        failure.add_note(f"What the training processes printed ({log}):\n{printed}")  # shown with a traceback alone
        raise failure


def check_host(topology: Topology) -> None:
    """Raise ValueError where this host has too few GPUs, or the port of the first of several is taken."""
    host = topology.hosts[topology.rank or 0] if topology.hosts else Host("localhost", topology.processes)
    if host.slots > 1 and has_gpu() and (found := gpus()) < host.slots:  # torch takes seconds to import
        raise ValueError(f"{host.name}: expected a GPU for each of {host.slots} processes, found {found}")
    if topology.hosts and topology.rank == 0 and not is_free(topology.port):
        raise ValueError(f"{host.name}: port {topology.port} is taken: name another master port, one for all hosts")


def reason(printed: str, code: int, topology: Topology, log: Path) -> str:
    """Return the error of processes that failed; where the first host's only lost others, that of a further host."""
    message = error_of(printed, code, topology.log(log))
    if topology.rank == 0 and is_echo(message):
        for rank, host in enumerate(topology.hosts[1:], 1):
            path = replace(topology, rank=rank).log(log)
            errors = errors_in(path.read_text(errors="replace"), path) if path.exists() else []
            if own := [error for error in errors if not is_echo(error)]:
                return f"{host.name}: {own[-1]}"
    return message


def ender(child: subprocess.Popen[bytes], topology: Topology) -> Callable[[], bool]:
    """Return a function that asks each worker to end, once, and returns whether the child is still there.

    DeepSpeed's launcher is not asked: it would kill the workers after 30 seconds.
    """
    asked: set[int] = set()

    def ask() -> bool:
        if child.poll() is not None:
            return False
        for pid in workers_of(child.pid, topology) - asked:
            asked.add(pid)
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        return True

    return ask


def end_workers(child: subprocess.Popen[bytes], asked: Callable[[], bool], grace: float) -> bool:
    """Ask the workers to end, wait, and kill what is left; return False where that was needed."""
    deadline = time.monotonic() + grace
    while asked() and time.monotonic() < deadline:
        time.sleep(0.05)
    in_time = child.poll() is not None
    end_group(child, grace=0.0 if not in_time else deadline - time.monotonic())
    return in_time


def workers_of(child: int, topology: Topology) -> set[int]:
    """Return the processes that train: the child alone, or those that DeepSpeed's launcher has started so far."""
    if is_alone(topology):
        return {child}
    with suppress(psutil.NoSuchProcess):
        return {worker.pid for worker in psutil.Process(child).children()}
    return set()


def end_group(child: subprocess.Popen[bytes], grace: float = GRACE_SECONDS) -> None:
    """Ask a child's process group to end, wait, and kill what is left."""
    for number, seconds in ((signal.SIGTERM, grace), (signal.SIGKILL, 5.0)):
        deadline = time.monotonic() + seconds
        if not _signal_group(child.pid, number):
            break
        while time.monotonic() < deadline and _signal_group(child.pid, 0):
            child.poll()
            time.sleep(0.05)
    child.wait()


def _signal_group(group: int, number: int) -> bool:
    """Signal a process group; False where nothing is left of it."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    return True


def has_gpu() -> bool:
    """Return whether torch sees a CUDA device; asked here, so that a command that needs no torch does not import it."""
    import torch

    return torch.cuda.is_available()


def gpus() -> int:
    """Return how many CUDA devices torch sees."""
    import torch

    return torch.cuda.device_count()
