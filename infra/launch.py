"""Training processes: DeepSpeed's launcher as a child, its output kept, its end passed on in both directions."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil  # type: ignore[import-untyped]

GRACE_SECONDS = 60.0
"""How long a cancelled run may take to save its state before it is killed."""


class LaunchError(RuntimeError):
    """Training processes that ended with an error; the message is the failed rank's own."""


def launch_command(module: str, arguments: list[str], processes: int) -> list[str]:
    """DeepSpeed's launcher for `processes` workers on this machine."""
    launcher = [sys.executable, "-m", "deepspeed.launcher.runner"]
    place = ["--num_accelerators", str(processes), "--master_addr", "127.0.0.1", "--master_port", str(free_port())]
    return [*launcher, *place, "--module", module, *arguments]


def launch_environment() -> dict[str, str]:
    """The environment of the workers: this checkout first on the path, and the CPU where there is no GPU."""
    environment = dict(os.environ)
    root = str(Path(__file__).resolve().parents[1])
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (root, environment.get("PYTHONPATH"))))
    environment["PYTHONUNBUFFERED"] = "1"
    if not has_gpu():
        environment.setdefault("DS_ACCELERATOR", "cpu")
    return environment


def run_workers(
    module: str, arguments: list[str], *, processes: int, log: Path, poll: Callable[[], None], interval: float = 0.5
) -> None:
    """Runs a module under DeepSpeed's launcher until it ends, calling `poll` meanwhile.

    Args:
        module: what each process runs, as ``python -m`` would.
        arguments: of the module.
        processes: how many, on this machine.
        log: gets everything they print. Their standard input stays open while this process lives, however it ends.
        poll: called every `interval` seconds and once at the end, to report progress.
        interval: seconds.

    Raises:
        LaunchError: a process failed. An exception in this process (Ctrl-C, a cancelled flow) ends the workers first;
            LaunchError too where they had to be killed.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        start = output.tell()
        child = subprocess.Popen(
            launch_command(module, arguments, processes),
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
        printed = log.read_bytes()[start:].decode(errors="replace")
        failure = LaunchError(error_of(printed, child.returncode, log))
        failure.add_note(f"What the training processes printed ({log}):\n{printed}")  # shown with a traceback alone
        raise failure


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


def error_of(output: str, code: int, log: Path) -> str:
    """The workers' own error among all that the launcher printed."""
    lines = [line.strip() for line in output.splitlines()]
    for line in reversed(lines):
        if line.startswith("error: "):
            return line.removeprefix("error: ")
    for number in range(len(lines) - 1, -1, -1):
        if lines[number].startswith("Traceback (most recent call last)") or "]: Traceback (most" in lines[number]:
            errors = [line for line in lines[number + 1 :] if _names_an_error(line)]
            if errors and "CalledProcessError" not in errors[0]:
                return f"{errors[0]} (whole output: {log})"
    return f"the training processes ended with exit code {code}; their output is in {log}"


def _names_an_error(line: str) -> bool:
    name, found, _ = line.split("]: ")[-1].partition(":")
    last = name.rsplit(".", 1)[-1]
    return bool(found) and last.isidentifier() and last.endswith(("Error", "Exception", "Interrupt"))


def free_port() -> int:
    """A TCP port on loopback that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def has_gpu() -> bool:
    """Whether torch sees a CUDA device; asked here, so that a command that needs no torch does not import it."""
    import torch

    return torch.cuda.is_available()
