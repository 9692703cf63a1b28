"""Processes that outlive the one that starts them: a pid file and a log each, and their end."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import psutil  # type: ignore[import-untyped]

from infra.service.secrets import redacted

MARK = "LLMDIFF_SERVE"
"""Environment variable by which all that a background process starts is known again, whatever became of itself."""


class Record(NamedTuple):
    """A pid file's content: the number, which another process may have by now, and the process's start, which tells."""

    pid: int
    started: str
    host: str
    port: int


@dataclass(frozen=True)
class Background:
    """A process by name, with its pid file and its log in a folder."""

    folder: Path
    name: str

    @property
    def pid_file(self) -> Path:
        return self.folder / f"{self.name}.json"

    @property
    def log(self) -> Path:
        return self.folder / f"{self.name}.log"

    def start(self, command: list[str], env: dict[str, str], cwd: Path, host: str = "", port: int = 0) -> None:
        """Start it in a session of its own, so that it stays when this process ends; its output goes to the log."""
        with self.log.open("ab") as log:
            child = subprocess.Popen(
                command,
                env={**env, MARK: self._mark},
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        record = Record(child.pid, started(child.pid) or "", host, port)
        self.pid_file.write_text(json.dumps(record._asdict()) + "\n")

    def running(self) -> Record | None:
        """Return the pid file's content while that very process lives."""
        try:
            record = Record(**json.loads(self.pid_file.read_text()))
        except (FileNotFoundError, ValueError, TypeError):  # cut short
            return None
        return record if record.started == started(record.pid) else None

    def family(self) -> list[psutil.Process]:
        """Return the process and all that it started, in sessions of their own too, and after its own end."""
        return [process for process in psutil.process_iter() if _mark_of(process) == self._mark and alive(process)]

    def end(self, grace: float) -> int:
        """Ask it to end, wait, kill what is left; return how many processes there were with all that it started.

        Its children are asked first and then itself, for Prefect's worker would kill the flow runs; each flow run ends
        its own children, which save before they go, and the worker tells the server how it ended.
        """
        family, record = self.family(), self.running()
        pids = {process.pid for process in family}
        children = [process for process in family if record and _parent(process) == record.pid]
        heads = [process for process in family if _parent(process) not in pids]
        for asked, awaited in ((children, children), (heads, family)):
            _signal(asked, signal.SIGTERM)
            _gone(awaited, grace)
        _signal(self.family(), signal.SIGKILL)
        _gone(family, 5.0)
        self.pid_file.unlink(missing_ok=True)
        return len(family)

    def last_words(self, lines: int = 15) -> str:
        """Return the end of the log, without passwords."""
        end = self.log.read_text(errors="replace").splitlines()[-lines:]
        return redacted("\n".join([f"the end of {self.log}:", *end]))

    @property
    def _mark(self) -> str:
        return f"{self.folder}/{self.name}"


def started(pid: int) -> str | None:
    """Return when a process was started, by the kernel's count of boot and ticks; None where none lives."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return None if fields[0] == "Z" else f"{boot} {fields[19]}"


def alive(process: psutil.Process) -> bool:
    """Return whether a process runs: one that ended and that nobody has asked about since does not."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _mark_of(process: psutil.Process) -> Any:
    try:
        return process.environ().get(MARK)
    except (psutil.Error, OSError):  # another user's, or gone
        return None


def _parent(process: psutil.Process) -> int:
    try:
        return int(process.ppid())
    except psutil.NoSuchProcess:
        return 0


def _signal(processes: list[psutil.Process], number: int) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def _gone(processes: list[psutil.Process], seconds: float) -> None:
    """Wait until none of them is left."""
    deadline = time.monotonic() + seconds
    while any(map(alive, processes)) and time.monotonic() < deadline:
        time.sleep(0.1)
