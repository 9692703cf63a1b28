"""Checks of what may be removed from a store: its own files, and nothing that a link or a name leads to."""

from __future__ import annotations

import re
from pathlib import Path

from storage.io.paths import StorePath
from storage.store import EncodingStore

PART_OF_SHARD = re.compile(r"zarr\..+|manifest\.json|encodings|latents|\..+\.part")
"""Names of what lies in a shard's folder, half-written files included."""


def check_own_folders(store: EncodingStore) -> None:
    """Raise ValueError where a folder of the store that files are removed from is a link that leads out of it."""
    folders = [store.path / "shards", store.path / "writing", *(table.folder for table in store.tables)]
    for folder in folders:
        if not lies_inside(store.path, folder):
            found = Path(str(folder)).resolve()
            raise ValueError(
                f"{folder}: expected a folder inside the store, found a link to {found}: nothing is removed"
            )


def lies_inside(root: StorePath, path: StorePath) -> bool:
    """Return whether a path leads to a place inside a store's folder; an object store has no links."""
    return path.is_remote or Path(str(path)).resolve().is_relative_to(Path(str(root)).resolve())


def is_removable(store: EncodingStore, path: StorePath) -> bool:
    """Return whether a shard's folder or a table's file is the store's own: inside it, and of the kind it seems."""
    if not lies_inside(store.path, path) or (not path.is_remote and Path(str(path)).is_symlink()):
        return False
    return path.parent.name != "shards" or looks_like_shard(path)


def looks_like_shard(path: StorePath) -> bool:
    """Return whether all that lies in a folder is what a shard has; nothing but that is removed as one."""
    return not path.is_file() and all(PART_OF_SHARD.fullmatch(child.name) for child in path.children())
