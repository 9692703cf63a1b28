"""A server that speaks S3 on loopback."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llmdiff.process.tcp_ports import free_port

BUCKET = "llmdiff-tests"
ROOT = Path(__file__).resolve().parents[1]
QUICK = {"MOTO_DISABLE_GLOBAL_CORS": "true"}
"""No page of a browser asks."""


@contextmanager
def object_store(log: Path, secret: str = "test") -> Iterator[dict[str, str]]:
    """The environment that leads a process to a server with an empty bucket."""
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "tests.s3_server", str(port)]
    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": secret, "AWS_REGION": "us-east-1"}
    with log.open("w") as file:
        server = subprocess.Popen(command, stdout=file, stderr=file, cwd=ROOT, env={**os.environ, **QUICK})
        try:
            _create_bucket(f"{address}/{BUCKET}", server)
            yield {**keys, "AWS_ENDPOINT_URL": address, "AWS_ALLOW_HTTP": "true"}
        finally:
            server.terminate()
            server.wait()


def _create_bucket(url: str, server: subprocess.Popen[bytes]) -> None:
    """Create the bucket as soon as the server answers."""
    deadline = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, method="PUT"), timeout=5):
                return
        except OSError:
            assert server.poll() is None, "the S3 server ended"
            assert time.monotonic() < deadline, "the S3 server does not answer"
            time.sleep(0.1)
