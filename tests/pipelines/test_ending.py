"""Ctrl-C, SIGTERM and the loss of a parent: commands end at once, say how to go on, and leave nothing behind."""

from __future__ import annotations

import importlib.util
import inspect
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from infra.engine import STARTS, start_server
from infra.environment import child_environment
from llmdiff.shapes import DIFFUSION, LLAMA
from pipelines.cli.main import advice
from tests.data.pictures import encoded, picture, write_parquet
from tests.hostile_folder import hostile_folder
from tests.prefect_database import copy_tables
from tests.waiting import wait_until

END_SECONDS = 20
"""Seconds for a machine that is busy with other tests; five suffice when it is not."""
STUBBORN = """
import subprocess, sys, time
from infra import ending
ending.SECONDS = float(sys.argv[1])
with ending.well_ended("the same command goes on"):
    child = subprocess.Popen(["sleep", "600"])
    print(child.pid, flush=True)
    while True:
        try:
            print("at work", flush=True)
            time.sleep(600)
        except BaseException as error:
            print(type(error).__name__, flush=True)
"""
"""A program in which something swallows the exception of a signal."""
LEFT = """
import atexit, sys, threading
from infra import ending
with ending.well_ended("the same command goes on"):
    atexit.register(print, "at exit")
    threading.Thread(target=lambda: (threading.main_thread().join(), print("a thread"))).start()
    print("done")
    sys.exit(int(sys.argv[1]))
"""
"""A program that comes to its own end."""
HOSTILE = {"http_proxy": "http://127.0.0.1:9", "ALL_PROXY": "socks://127.0.0.1:9", "no_proxy": "[::1]"}
EARLY = """
import os, signal, sys
class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == "pipelines.cli.commands":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupting())
sys.argv = ["llmdiff", "train"]
from pipelines.cli.main import main
main()
"""
"""A program that gets Ctrl-C while it still imports its commands."""


def start(*command: str, cwd: Path | None = None, **environment: str) -> subprocess.Popen[str]:
    """Start a command in a process group of its own, as a terminal does, with one pipe for all that it prints."""
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "start_new_session": True}
    return subprocess.Popen(command, env={**child_environment(), **environment}, cwd=cwd, **pipe)  # type: ignore[call-overload]


@pytest.mark.process
def test_ctrl_c_in_a_terminal_ends_a_flow_and_its_server(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The whole process group gets it; `| tee log` would end, for nobody holds the pipe.

    It came to work although a proxy that is not there is set, and in a folder with packages of our names.
    """
    if not (database := Path(os.environ["PREFECT_HOME"]) / "prefect.db").exists():
        copy_tables(database, tmp_path_factory)
    image = encoded(picture())
    data = write_parquet(tmp_path / "a.parquet", [(image, f"a red circle {i}") for i in range(5000)])
    program = str(Path(sys.executable).with_name("llmdiff"))
    asked = ["encode", "--data", str(data), "--store", str(tmp_path / "store"), "--llm", str(LLAMA), "--processes", "2"]
    child = start(program, *asked, "--diffusion", str(DIFFUSION), cwd=hostile_folder(tmp_path), **HOSTILE)
    assert child.stdout is not None
    printed = ""
    while "row/s" not in printed and (some := os.read(child.stdout.fileno(), 4096).decode(errors="replace")):
        printed += some
    os.killpg(child.pid, signal.SIGINT)
    end, _ = child.communicate(timeout=END_SECONDS)
    assert child.returncode == 130, printed + end
    assert end.splitlines()[-1] == "interrupted: the same command goes on"
    assert "Traceback" not in printed + end
    assert of_home(tmp_path / "runs") == []


def of_home(home: Path) -> list[list[str]]:
    """Command lines of the processes that have a home of runs in their environment, but for this one."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get("LLMDIFF_HOME") == str(home):
                found.append(process.cmdline())
        except psutil.Error:
            continue
    return found


@pytest.mark.process
def test_what_prefect_starts_ends_with_the_one_that_needs_it() -> None:
    """However that ended: nothing but the loss of the other end of a pipe tells it."""
    environment = {**child_environment(), "COLUMNS": "80"}
    command = [sys.executable, "-m", "infra.engine", "http.server", "--bind", "127.0.0.1", "0"]
    child = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdin is not None
    assert child.stdout is not None
    assert "Serving HTTP" in child.stdout.readline()
    child.stdin.close()
    assert child.wait(END_SECONDS) == -signal.SIGTERM


def test_prefect_starts_its_server_by_the_method_that_is_replaced() -> None:
    """Where this fails, look how Prefect starts its server for a flow that has none, and repair `infra.engine`."""
    prefect = importlib.util.find_spec("prefect")
    assert prefect is not None
    assert prefect.origin is not None
    source = Path(prefect.origin).with_name("server").joinpath("api", "server.py").read_text()
    theirs = source.partition(f"    def {STARTS}(self)")[2].partition("\n    def ")[0]
    ours = inspect.getsource(start_server)
    for part in ("PREFECT__SERVER_EPHEMERAL", "PREFECT__SERVER_FINAL", "PREFECT_UI_ENABLED", "--lifespan", "--app-dir"):
        assert part in theirs
        assert part in ours
    assert theirs.count('"--') == ours.count('"--'), "an option more or less"


@pytest.mark.process
def test_ctrl_c_while_a_command_is_starting() -> None:
    child = start(sys.executable, "-c", EARLY)
    printed, _ = child.communicate(timeout=END_SECONDS)
    assert (child.returncode, printed) == (130, "interrupted: the same command goes on\n")


@pytest.mark.process
@pytest.mark.parametrize(
    ("seconds", "numbers", "code"),
    [("0.3", [signal.SIGTERM], 143), ("0.3", [signal.SIGINT], 130), ("600", [signal.SIGINT, signal.SIGINT], 130)],
)
def test_a_command_that_does_not_end_is_ended(seconds: str, numbers: list[signal.Signals], code: int) -> None:
    child = start(sys.executable, "-c", STUBBORN, seconds)
    assert child.stdout is not None
    pid = int(child.stdout.readline())
    assert child.stdout.readline() == "at work\n"
    swallowed, said = ("SystemExit", "stopped by SIGTERM") if code == 143 else ("KeyboardInterrupt", "interrupted")
    for number in numbers[:-1]:
        child.send_signal(number)  # two at once would be one
        assert [child.stdout.readline() for _ in range(2)] == [f"{swallowed}\n", "at work\n"]
    child.send_signal(numbers[-1])
    printed, _ = child.communicate(timeout=END_SECONDS)
    assert child.returncode == code, printed
    if len(numbers) == 1:
        assert printed.splitlines()[0] == swallowed
    assert printed.splitlines()[-1] == f"{said}: the same command goes on"
    wait_until(lambda: not psutil.pid_exists(pid), END_SECONDS)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["encode", "--data", "x"], "the same command goes on"),
        (["--debug", "train"], "the same command goes on"),
        (["study", "all"], "the same command goes on"),
        (["generate", "--prompt", "train"], "run the same command again"),
        ([], "run the same command again"),
    ],
)
def test_the_advice_is_of_the_command(arguments: list[str], expected: str) -> None:
    assert advice(arguments) == expected


@pytest.mark.process
@pytest.mark.parametrize("code", [0, 3])
def test_a_command_that_is_done_leaves_with_all_that_was_to_happen_at_its_end(code: int) -> None:
    printed, _ = (child := start(sys.executable, "-c", LEFT, str(code))).communicate(timeout=END_SECONDS)
    assert (child.returncode, printed.splitlines()) == (code, ["done", "a thread", "at exit"])


@pytest.mark.process
def test_a_full_disk_behind_standard_output_is_told() -> None:
    with Path("/dev/full").open("w") as full:
        command, buffered = [sys.executable, "-c", LEFT, "0"], {**child_environment(), "PYTHONUNBUFFERED": ""}
        done = subprocess.run(command, env=buffered, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 120  # Python's own
    assert "No space left on device" in done.stderr
