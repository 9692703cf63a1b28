"""A server that speaks S3 on loopback, for the tests of stores in an object store."""

import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Iterator

import pytest

BUCKET = "llmdiff-tests"


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory) -> Iterator[str]:
    """The address of a server with an empty bucket; the environment of every process started here leads to it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    log = (tmp_path_factory.mktemp("s3") / "server.log").open("w")
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], stdout=log, stderr=log
    )
    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"}
    with pytest.MonkeyPatch.context() as environment:
        for name, value in {**keys, "AWS_ENDPOINT_URL": address, "AWS_ALLOW_HTTP": "true"}.items():
            environment.setenv(name, value)
        try:
            create_bucket(f"{address}/{BUCKET}", server)
            yield address
        finally:
            server.terminate()
            server.wait()
            log.close()


@pytest.fixture
def s3_url(s3_server) -> str:
    """A prefix that nothing lies under."""
    return f"s3://{BUCKET}/{uuid.uuid4().hex}/store"


def create_bucket(url: str, server: subprocess.Popen) -> None:
    """As soon as the server answers."""
    deadline = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, method="PUT"), timeout=5):
                return
        except OSError:
            assert server.poll() is None, "the S3 server ended"
            assert time.monotonic() < deadline, "the S3 server does not answer"
            time.sleep(0.1)
