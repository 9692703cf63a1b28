"""An object store on loopback that answers each request a little later."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.synchronize import Event
from pathlib import Path

from llmdiff.process.tcp_ports import free_port
from tests.object_store import BUCKET, object_store


@contextmanager
def slow_object_store(log: Path, seconds: float) -> Iterator[tuple[dict[str, str], str]]:
    """Give the environment that leads to it, and its bucket's name."""
    with object_store(log) as environment:
        behind = int(environment["AWS_ENDPOINT_URL"].rpartition(":")[2])
        with delayed(behind, seconds) as port:
            yield {**environment, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}, BUCKET


@contextmanager
def delayed(behind: int, seconds: float) -> Iterator[int]:
    """Give a port that passes on what is sent to another one, each piece that is sent so much later.

    It is a process of its own: the Delta library holds Python's lock while it waits for an answer.
    """
    context = get_context("spawn")
    port, listens = free_port(), context.Event()
    process = context.Process(target=_serve, args=(port, behind, seconds, listens), daemon=True)
    process.start()
    try:
        assert listens.wait(60), "the server in between does not start"
        yield port
    finally:
        process.terminate()


def _serve(port: int, behind: int, seconds: float, listens: Event) -> None:
    with socket.create_server(("127.0.0.1", port), backlog=256) as server:
        listens.set()
        while True:
            client, _ = server.accept()
            there = socket.create_connection(("127.0.0.1", behind))
            for source, target, wait in ((client, there, seconds), (there, client, 0.0)):
                threading.Thread(target=_pass_on, args=(source, target, wait), daemon=True).start()


def _pass_on(source: socket.socket, target: socket.socket, seconds: float) -> None:
    last = 0.0
    try:
        while data := source.recv(1 << 20):
            if time.monotonic() - last > seconds:  # the pieces of one request come at once
                time.sleep(seconds)
            target.sendall(data)
            last = time.monotonic()
        target.shutdown(socket.SHUT_WR)
    except OSError:
        source.close()
        target.close()
