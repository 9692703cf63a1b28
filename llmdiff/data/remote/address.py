"""Addresses of data: paths of this machine, of buckets, of web servers, of the hub."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

from llmdiff.data.remote.path import DataPath, RemotePath

BUCKETS = ("s3", "gs", "az")
EXPECTED = (
    "a path, s3://bucket/prefix, gs://bucket/prefix, az://container/prefix, https://host/file, "
    "hf://datasets/owner/name/path or hf:owner/name"
)


def is_remote(data: str) -> bool:
    """Return whether an address is remote."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://|hf:", data) is not None


def data_path(data: str | Path | RemotePath) -> DataPath:
    """Return the path of an address; nothing is listed yet, but a name on the hub is resolved to its commit.

    Raises:
        ValueError: the address is of an unknown kind, or holds a password or a query that it should not have.
        FileNotFoundError: the hub has no such data set or revision.
        ConnectionError: the hub does not answer, or refuses.
    """
    if not isinstance(data, str):
        return data
    if not is_remote(data):
        return Path(data)
    scheme = data.partition(":")[0].lower()
    if scheme in ("http", "https"):
        from llmdiff.data.remote.web import web_files

        web = web_files(data)
        keys = [key for key, _ in web.files]
        return RemotePath(web, keys[0] if len(keys) == 1 else _common_folder(keys))
    if scheme == "hf":
        from llmdiff.data.remote.hub import hub_data

        return RemotePath(*hub_data(data))
    return _in_bucket(data, scheme)


def shown(data: str) -> str:
    """Return an address in a form that may be logged: without passwords and signatures."""
    if not is_remote(data) or data.startswith("hf:"):
        return data
    from llmdiff.data.remote.http import without_secrets

    return " ".join(map(without_secrets, data.split()))


def _in_bucket(data: str, scheme: str) -> RemotePath:
    parts = urlsplit(data)
    if "@" in parts.netloc or parts.query:  # the error does not repeat it
        raise ValueError(f"data: expected {scheme}://bucket/prefix alone, for credentials come from the environment")
    if scheme not in BUCKETS or not parts.netloc:
        raise ValueError(f"{data}: expected {EXPECTED}")
    from llmdiff.data.remote.bucket import Bucket

    return RemotePath(Bucket(scheme, parts.netloc), parts.path.strip("/"))


def _common_folder(keys: list[str]) -> str:
    """Return the deepest folder that all keys are in."""
    parts = [key.split("/")[:-1] for key in keys]
    shared = 0
    while all(len(each) > shared for each in parts) and len({each[shared] for each in parts}) == 1:
        shared += 1
    return "/".join(parts[0][:shared])
