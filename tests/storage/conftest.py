"""A server that speaks S3 on loopback, for the tests of stores in an object store."""

import uuid
from collections.abc import Iterator

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
