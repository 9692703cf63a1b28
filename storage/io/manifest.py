"""The list of a shard's files with their sizes and checksums, which lies beside them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from storage.hashing import canonical_json, checksum
from storage.io.files import file_sizes, naming
from storage.io.names import shard_folder
from storage.io.paths import StorePath

MANIFEST = "manifest.json"


def write_manifest(folder: Path, known: Mapping[str, dict[str, int]]) -> None:
    """List the files under a folder with size and CRC-32C, and the list's own CRC-32C, beside them.

    Args:
        folder: a shard's.
        known: size and CRC-32C of files that need not be read again: what was written is what counts.
    """
    sizes = sorted(file_sizes(folder).items())
    files = {
        name: known.get(name) or {"size": size, "crc32c": checksum((folder / name).read_bytes())}
        for name, size in sizes
    }
    manifest = {"files": files, "crc32c": checksum(canonical_json(files).encode())}
    with naming(folder / MANIFEST):
        (folder / MANIFEST).write_bytes(json.dumps(manifest, indent=1).encode())


def read_manifest(folder: StorePath) -> dict[str, dict[str, int]]:
    """Return size and CRC-32C of each file of a shard; ValueError where the list is not as it was written."""
    data = (folder / MANIFEST).read_bytes()
    try:
        manifest = json.loads(data)
        files: dict[str, dict[str, int]] = manifest["files"]
        expected = int(manifest["crc32c"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"expected a list of files, found {error!r}") from error
    if (found := checksum(canonical_json(files).encode())) != expected:
        raise ValueError(f"expected CRC-32C {expected:08x}, found {found:08x}")
    return files


def bytes_by_kind(sizes: Mapping[str, int]) -> dict[str, int]:
    """Return the bytes of a shard's files, which are given by path: of ``encodings``, ``latents`` and ``all``."""
    kinds = ("encodings", "latents")
    found = {kind: sum(size for name, size in sizes.items() if name.startswith(f"{kind}/")) for kind in kinds}
    return {**found, "all": sum(sizes.values())} if sizes else {}


def shard_bytes(root: StorePath, shard: str) -> dict[str, int]:
    """Return the bytes of the files of a store's shard by kind; none where they are gone."""
    return bytes_by_kind(shard_folder(root, shard).file_sizes())
