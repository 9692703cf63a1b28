"""Where stores of the tests lie: a server that speaks S3 on loopback, and a small disk."""

import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.object_store import BUCKET, object_store


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory) -> Iterator[str]:
    """The address of a server with an empty bucket; the environment of every process started here leads to it."""
    with object_store(tmp_path_factory.mktemp("s3") / "server.log") as variables:
        with pytest.MonkeyPatch.context() as environment:
            for name, value in variables.items():
                environment.setenv(name, value)
            yield variables["AWS_ENDPOINT_URL"]


@pytest.fixture
def s3_url(s3_server) -> str:
    """A prefix that nothing lies under."""
    return f"s3://{BUCKET}/{uuid.uuid4().hex}/store"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a file system")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)
