"""Encoding in two processes of this machine: the store of one, and nothing left of them however the run ends."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from llmdiff.data.encode import encode_shard
from llmdiff.data.sources import open_source
from pipelines.requests.encode import EncodeRequest
from pipelines.runtime.encode.job import loaded_encoders, make_job
from storage import EncodingStore
from tests.data.pictures import encoded, picture, write_parquet
from tests.pipelines.conftest import ROOT, Server, World
from tests.stores import contents, left_behind
from tests.waiting import wait_until

SHARDS, ROWS = 4, 20
GONE_SECONDS = 60


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("processes-data")
    for shard in range(SHARDS):
        rows = [(encoded(picture(seed=shard * ROWS + i)), f"a red circle {shard} {i}") for i in range(ROWS)]
        write_parquet(folder / f"{shard}.parquet", [*rows, (b"no picture", "broken")])
    return str(folder)


def command(data: str, store: Path, world: World) -> list[str]:
    """`llmdiff encode` in two processes."""
    program = str(Path(sys.executable).with_name("llmdiff"))
    models = ["--diffusion", world.diffusion, "--llm", world.llm]
    return [program, "encode", "--data", data, "--store", str(store), *models, "--processes", "2"]


def test_two_processes_write_the_store_of_one(world: World, data: str, server: Server, tmp_path: Path) -> None:
    request = EncodeRequest(data=data, store=str(tmp_path / "one"), diffusion=world.diffusion, llm=world.llm)
    encoders = loaded_encoders(make_job(request, pictures=True).model_dump_json())
    for shard in open_source(data):
        encode_shard(EncodingStore.open(request.store), shard, encoders)
    done = subprocess.run(
        command(data, tmp_path / "two", world), env=server.env, cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert f"rows {SHARDS * (ROWS + 1)} = known 0 + new {SHARDS * ROWS} + rejected {SHARDS}" in done.stdout
    assert "Traceback" not in done.stderr
    one, two = (EncodingStore.open(tmp_path / name) for name in ("one", "two"))
    assert contents(two) == contents(one)
    assert left_behind(two) == []


def test_processes_beside_ray_are_refused(world: World, data: str, in_process: Server, tmp_path: Path) -> None:
    from pipelines.flows.encode import encode_flow

    with pytest.raises(ValueError, match="processes: expected 1 with ray, whose cluster says how many there are"):
        encode_flow(
            EncodeRequest(
                data=data, store=str(tmp_path), diffusion=world.diffusion, llm=world.llm, ray="auto", processes=2
            )
        )


SCRIPT = """
import sys
import time
from pathlib import Path

from prefect import flow

from pipelines.runtime.processes import process_number, processes
from pipelines.runtime.stage import task


@task("work", delays=(0, 0))
def work(folder, name):
    mark = Path(folder, f"{name} {process_number()}")
    mark.touch()
    try:
        time.sleep(600)
    finally:
        mark.unlink()


@flow
def main(folder):
    with processes(2) as run:
        for _, ended in run(work, folder, ["a", "b", "c", "d"]):
            ended()


if __name__ == "__main__":
    main(sys.argv[1])
"""


@contextmanager
def started(environment: dict[str, str], folder: Path, script: str = SCRIPT) -> Iterator[subprocess.Popen[bytes]]:
    """A run of two processes, on tasks that leave a file where they are not ended well."""
    (folder / "marks").mkdir()
    (folder / "run.py").write_text(script)
    asked = [sys.executable, str(folder / "run.py"), str(folder / "marks")]
    with (folder / "log").open("wb") as log:
        child = subprocess.Popen(asked, env=environment, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
        try:
            yield child
        finally:
            for process in psutil.Process(child.pid).children(recursive=True) if child.poll() is None else []:
                process.kill()
            child.kill()
            child.wait()


@pytest.fixture
def running(server: Server, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A run whose processes are both at work."""
    with started(server.env, tmp_path) as child:
        wait_until(lambda: len(marks(tmp_path)) == 2 or child.poll() is not None)
        assert child.poll() is None, (tmp_path / "log").read_text()
        yield child


def workers_of(run: subprocess.Popen[bytes]) -> list[psutil.Process]:
    found = psutil.Process(run.pid).children(recursive=True)
    return [child for child in found if "spawn_main" in " ".join(child.cmdline())]


def marks(folder: Path) -> list[str]:
    return sorted(file.name for file in (folder / "marks").iterdir())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_all_processes_end_with_the_run_and_their_tasks_clear_up(
    running: subprocess.Popen[bytes], number: signal.Signals, tmp_path: Path
) -> None:
    assert {name.split()[1] for name in marks(tmp_path)} == {"0", "1"}, "each has a number of its own, for its GPU"
    assert len(workers := workers_of(running)) == 2
    os.kill(running.pid, number)
    assert psutil.wait_procs(workers, timeout=GONE_SECONDS)[1] == []
    running.wait(GONE_SECONDS)
    assert marks(tmp_path) == []


@pytest.mark.process
def test_a_process_that_starts_is_deaf_to_ctrl_c_until_it_is_out_of_the_terminals_reach(tmp_path: Path) -> None:
    """It would break off the imports, which would print where they were."""
    nowhere = {**os.environ, "PREFECT_API_URL": "http://127.0.0.1:9/api"}
    with started(nowhere, tmp_path, SCRIPT.replace("    main(", "    main.fn(")) as run:
        wait_until(lambda: bool(workers_of(run)))
        for worker in workers_of(run):
            assert is_deaf(worker.pid) or os.getsid(worker.pid) == worker.pid


def is_deaf(pid: int) -> bool:
    """Whether a process blocks SIGINT."""
    (mask,) = re.findall(r"SigBlk:\s*([0-9a-f]+)", Path(f"/proc/{pid}/status").read_text())
    return bool(int(mask, 16) & 1 << signal.SIGINT - 1)
