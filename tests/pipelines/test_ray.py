"""Encoding on a real Ray cluster of two machines, as far as one machine can be two: a raylet each, on loopback."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any

import psutil
import pytest

from pipelines.requests.encode import EncodeRequest
from pipelines.runtime.executors import ON_LOOPBACK
from storage import EncodingStore
from storage.maintenance.verify import verify
from tests.data.pictures import encoded, picture, write_parquet
from tests.object_store import BUCKET, object_store
from tests.pipelines.conftest import Server, World
from tests.storage import synthetic
from tests.stores import contents, left_behind

pytestmark = pytest.mark.xdist_group("second server")
SHARDS, ROWS = 5, 6
SLOW_ROWS = 258
"""More than are read at once: the pictures behind URLs are asked for when the rows before them are half-written."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Ray cluster of two nodes with a processor each, which can reach an object store."""
    quiet = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "t" * 32, ON_LOOPBACK: "0"}
    quiet["RAY_worker_niceness"] = "0"  # at its own 15 they wait minutes for a core while the other tests run
    log = tmp_path_factory.mktemp("s3") / "server.log"
    with pytest.MonkeyPatch.context() as environment, object_store(log) as credentials:
        for name, value in {**quiet, **credentials}.items():
            environment.setenv(name, value)
        from ray._private.authentication_test_utils import reset_auth_token_state
        from ray.cluster_utils import Cluster

        reset_auth_token_state()  # what this process knew of it where it has imported Ray before
        folder = tempfile.mkdtemp(prefix="ray-")  # short, for it holds sockets
        environment.setenv("RAY_TMPDIR", folder)  # the cluster's address is written below it, whatever `temp_dir` says
        (Path(folder) / "ray").mkdir()
        small = {"num_cpus": 1, "object_store_memory": 80_000_000, "include_dashboard": False}
        node = {**small, "dashboard_agent_listen_port": 0, "temp_dir": folder}
        two_nodes = Cluster(initialize_head=True, head_node_args=node)
        try:
            two_nodes.add_node(**node)
            yield two_nodes.address
        finally:
            two_nodes.shutdown()
            shutil.rmtree(folder, ignore_errors=True)


class Pictures:
    """Serves a picture on loopback; `asked` gets the process that asks, before it is answered."""

    def __init__(self) -> None:
        self.asked: Callable[[int], None] = lambda process: None
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked(client_of(self.connection))
                body = encoded(picture(seed=7))
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/a.png"


def client_of(connection: socket.socket) -> int:
    """The process of this machine at the other end; its port alone may be that of a connection just closed, too."""
    ends = connection.getpeername(), connection.getsockname()
    return next(found.pid for found in psutil.net_connections("tcp") if (found.laddr, found.raddr) == ends)


@pytest.fixture(scope="module")
def pictures() -> Iterator[Pictures]:
    served = Pictures()
    Thread(target=served.server.serve_forever, daemon=True).start()
    yield served
    served.server.shutdown()


@pytest.fixture(scope="module")
def data(world: World, pictures: Pictures, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Shards of pictures, of which one is broken, and one whose last pictures are behind URLs."""
    folder = tmp_path_factory.mktemp("ray-data")
    for shard in range(SHARDS):
        rows = [(encoded(picture(seed=shard * ROWS + i)), f"a red circle {shard} {i}") for i in range(ROWS)]
        write_parquet(folder / f"{shard}.parquet", [*rows, (b"no picture", "broken")])
    (folder / "at.png").write_bytes(encoded(picture(seed=99)))
    lines = [f"at.png\ta blue square {i}" for i in range(SLOW_ROWS - 2)]
    lines += [f"{pictures.url}?{i}\ta green circle {i}" for i in range(2)]
    (folder / "slow.tsv").write_text("image\tcaption\n" + "\n".join(lines) + "\n")
    return str(folder)


def encode(world: World, data: str, store: str | Path, **options: Any) -> Any:
    """What the flow makes of the data, whose URLs lead to this machine."""
    from pipelines.flows.encode import encode_flow

    models = {"diffusion": world.diffusion, "llm": world.llm}
    return encode_flow(EncodeRequest(data=data, store=str(store), allow_private_addresses=True, **models, **options))


@pytest.fixture(scope="module")
def alone(world: World, data: str, server: Server, tmp_path_factory: pytest.TempPathFactory) -> EncodingStore:
    """What one process makes of the data."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    path = str(tmp_path_factory.mktemp("alone") / "store")
    with temporary_settings({PREFECT_API_URL: server.url}):
        encode(world, data, path)
    return EncodingStore.open(path)


def test_a_worker_is_killed_and_the_store_is_as_of_one_process(
    cluster: str,
    pictures: Pictures,
    data: str,
    alone: EncodingStore,
    world: World,
    in_process: Server,
    tmp_path: Path,
) -> None:
    killed, half_written, slots = [], [], []
    in_process.post("/concurrency_limits/", tag="gpu", concurrency_limit=3)
    store = tmp_path / "store"

    def kill(process: int) -> None:
        if not killed:
            killed.append(process)
            half_written.extend(left_behind(EncodingStore.open(store)))
            slots.append(in_process.ask("GET", "/v2/concurrency_limits/tag:gpu").json()["active_slots"])
            os.kill(process, signal.SIGKILL)

    pictures.asked = kill
    result = encode(world, data, store, ray=cluster, limit="gpu")
    assert len(killed) == 1
    assert any(name.startswith("slow") for name in half_written)
    assert slots[0] >= 1
    assert [shard.source for shard in result.shards] == [*(f"{i}.parquet" for i in range(SHARDS)), "slow.tsv"]
    assert (result.rows, result.samples) == (SHARDS * (ROWS + 1) + SLOW_ROWS, SHARDS * ROWS + SLOW_ROWS)
    written = EncodingStore.open(store)
    assert contents(written) == contents(alone)
    assert left_behind(written) == []


def test_workers_write_one_store_in_a_bucket(
    cluster: str, pictures: Pictures, data: str, alone: EncodingStore, world: World, in_process: Server
) -> None:
    pictures.asked = lambda process: None
    url = f"s3://{BUCKET}/store"
    result = encode(world, data, url, ray=cluster)
    assert (result.store, len(result.shards)) == (url, SHARDS + 1)
    # a picture of two shards is encoded with the neighbours of whichever comes first, and rounded by their number
    assert contents(EncodingStore.open(url), "latent_checksum") == contents(alone, "latent_checksum")
    assert EncodingStore.open(url).locks.held() == []


def test_workers_check_a_store(cluster: str, tmp_path: Path) -> None:
    from pipelines.runtime.verifying import checking

    store, llm = synthetic.make_store(tmp_path / "store")
    for source in ("a", "b", "c"):
        synthetic.encode(store, llm, source, shard=source)
    assert verify(store, check=checking(ray=cluster)) == []
    shutil.rmtree(store.path / "shards" / "b")
    assert verify(store, check=checking(ray=cluster)) == verify(store) != []


def test_ctrl_c_ends_the_workers_and_leaves_nothing_half_written(
    cluster: str,
    pictures: Pictures,
    data: str,
    world: World,
    in_process: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import ray

    asked, cancelled = [], Event()

    def cancel(reference: Any, cancel: Callable[..., Any] = ray.cancel, **options: Any) -> None:
        cancel(reference, **options)
        cancelled.set()

    def interrupt(process: int) -> None:
        asked.append(process)
        if len(asked) == 1:
            os.kill(os.getpid(), signal.SIGINT)
        cancelled.wait(60)
        time.sleep(3)  # the worker is interrupted while it waits

    monkeypatch.setattr(ray, "cancel", cancel)
    pictures.asked = interrupt
    with pytest.raises(KeyboardInterrupt):
        encode(world, data, tmp_path / "store", ray=cluster)
    store = EncodingStore.open(tmp_path / "store")
    assert verify(store) == []
    assert left_behind(store) == []
    assert "slow.tsv" not in store.samples()["source"].to_pylist()
    gone = psutil.wait_procs([psutil.Process(pid) for pid in asked if psutil.pid_exists(pid)], timeout=60)
    assert gone[1] == []


def test_what_can_not_run_on_ray_is_refused_at_once(
    world: World, data: str, in_process: Server, tmp_path: Path
) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from pipelines.runtime.executors import server_url

    with pytest.raises(ValueError, match="limit: expected the tag of a concurrency limit, found no 'none'"):
        encode(world, data, tmp_path / "store", limit="none")
    with (
        temporary_settings(restore_defaults={PREFECT_API_URL}),
        pytest.raises(ValueError, match="expected PREFECT_API_URL"),
    ):
        server_url("auto")
    assert not (tmp_path / "store").exists()
