"""Encoding in two processes of this machine: the store of one, and nothing left of them however the run ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import psutil
import pytest

from llmdiff.data.encode import encode_shard
from llmdiff.data.sources import open_source
from pipelines.requests.encode import EncodeRequest
from pipelines.runtime.encode_job import loaded_encoders, make_job
from storage import EncodingStore
from storage.maintenance.verify import verify
from tests.data.pictures import encoded, picture, write_parquet
from tests.pipelines.conftest import ROOT, Server, World
from tests.pipelines.stores import contents, left_behind

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
        encode_flow(data=data, store=str(tmp_path), diffusion=world.diffusion, llm=world.llm, ray="auto", processes=2)


@pytest.fixture
def slow_data(tmp_path: Path) -> str:
    """Shards that take longer to encode than a process does to start: many pictures, each another one."""
    data = [encoded(picture(64, 64, seed=seed)) for seed in range(8)]
    for shard in range(8):
        rows = [(data[shard] + i.to_bytes(4, "little"), f"a {i}") for i in range(4_000)]
        write_parquet(tmp_path / "slow" / f"{shard}.parquet", rows, row_group_size=500)
    return str(tmp_path / "slow")


@pytest.fixture
def running(server: Server, world: World, slow_data: str, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The command in two processes, in the midst of two shards."""
    asked = command(slow_data, tmp_path / "store", world)
    child = subprocess.Popen(asked, env=server.env, cwd=ROOT, stderr=subprocess.PIPE, start_new_session=True)
    try:
        until(lambda: len(list((tmp_path / "store" / "writing").glob("*.lock"))) == 2 or child.poll() is not None)
        assert child.poll() is None
        yield child
    finally:
        for process in [*family(child.pid), psutil.Process(child.pid)] if child.poll() is None else []:
            process.kill()
        child.wait()


def family(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


def until(ready: object, seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while not ready():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_all_processes_end_with_the_run_and_leave_nothing_half_written(
    running: subprocess.Popen[bytes], number: signal.Signals, tmp_path: Path
) -> None:
    workers = [child for child in family(running.pid) if "spawn_main" in " ".join(child.cmdline())]
    assert len(workers) == 2
    os.kill(running.pid, number)
    Thread(target=running.communicate).start()
    assert psutil.wait_procs(workers, timeout=GONE_SECONDS)[1] == []
    running.wait(GONE_SECONDS)
    store = EncodingStore.open(tmp_path / "store")
    assert (left_behind(store), verify(store)) == ([], [])
