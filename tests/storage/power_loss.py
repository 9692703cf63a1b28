"""What a disk holds of a folder when power is lost: by inode, what was synced, and of what came later anything."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tests.examples import EVERY


class Disk:
    """What of a folder is on the disk for sure, by inode: bytes of files, names in folders."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.bytes: dict[int, bytes] = {}
        self.names: dict[int, dict[str, int]] = {}
        self.folders: set[int] = set()
        self._held: dict[int, int] = {}  # open files: an inode that is held is not given to another file
        for path in (root, *root.rglob("*")):
            self.sync(path)

    def sync(self, path: Path) -> None:
        inode = self.hold(path)
        if inode in self.folders:
            self.names[inode] = {child.name: self.hold(child) for child in path.iterdir()}
        else:
            self.bytes[inode] = path.read_bytes()

    def hold(self, path: Path) -> int:
        inode = path.stat().st_ino
        if inode not in self._held:
            self._held[inode] = os.open(path, os.O_RDONLY)
            if path.is_dir():
                self.folders.add(inode)
        return inode

    def close(self) -> None:
        for descriptor in self._held.values():
            os.close(descriptor)


class Loss:
    """What a disk makes of what was not synced: nothing of it is there."""

    def __init__(self, disk: Disk, seed: int) -> None:
        self.disk = disk
        self.random = np.random.default_rng(seed)
        self.live = {disk.hold(path): path for path in (disk.root, *disk.root.rglob("*"))}

    def tree(self, inode: int, path: str = "") -> Iterator[tuple[str, bytes | None]]:
        """Yield every path, a folder's before what is in it, with the bytes of each file."""
        if inode not in self.disk.folders:
            yield path, self.content(inode)
            return
        yield path, None
        for name, child in self.listing(inode).items():
            yield from self.tree(child, f"{path}/{name}")

    def synced_names(self, inode: int) -> dict[str, int]:
        return self.disk.names.get(inode, {})

    def names_now(self, inode: int) -> dict[str, int]:
        path = self.live.get(inode)
        return {} if path is None else {child.name: self.disk.hold(child) for child in path.iterdir()}

    def synced_bytes(self, inode: int) -> bytes:
        return self.disk.bytes.get(inode, b"")

    def bytes_now(self, inode: int) -> bytes:
        path = self.live.get(inode)
        return self.synced_bytes(inode) if path is None else path.read_bytes()

    def listing(self, inode: int) -> dict[str, int]:
        return self.synced_names(inode)

    def content(self, inode: int) -> bytes:
        return self.synced_bytes(inode)


class NamesWithoutBytes(Loss):
    """The journal has every name, and the files' bytes were still in memory."""

    def listing(self, inode: int) -> dict[str, int]:
        return self.names_now(inode)


class HalfOfTheBytes(NamesWithoutBytes):
    """The journal has every name, and half of each file's bytes got to the disk."""

    def content(self, inode: int) -> bytes:
        before, now = self.synced_bytes(inode), self.bytes_now(inode)
        return before if now == before else now[: len(now) // 2]


class Anything(Loss):
    """A power loss after which each name and each file's bytes are as they were, as they are, or cut off."""

    def listing(self, inode: int) -> dict[str, int]:
        before, now = self.synced_names(inode), self.names_now(inode)
        chosen = {name: (before, now)[self.random.integers(2)].get(name) for name in sorted(before | now)}
        return {name: child for name, child in chosen.items() if child is not None}

    def content(self, inode: int) -> bytes:
        before, now = self.synced_bytes(inode), self.bytes_now(inode)
        return before if now == before else (before, now, now[: len(now) // 2])[self.random.integers(3)]


Tree = dict[str, bytes | None]


def chosen(trees: list[Tree], loss: int) -> list[Tree]:
    """Every fourth tree, first and last: each moment is looked at with one loss of the four, and both ends with all.

    Where a run shall be fast, it is every third moment.
    """
    return [tree for i, tree in enumerate(trees) if i % (4 * EVERY) == loss * EVERY or i in (0, len(trees) - 1)]


def write(tree: Tree, folder: Path) -> Path:
    for path, content in tree.items():
        if content is None:
            Path(f"{folder}{path}").mkdir()
        else:
            Path(f"{folder}{path}").write_bytes(content)
    return folder


LOSSES = {
    "only what was synced": Loss,
    "names without bytes": NamesWithoutBytes,
    "half of the bytes": HalfOfTheBytes,
    "anything": Anything,
}


class Cuts:
    """Copies of a store as it is on the disk when power is lost: before each sync, and at the end."""

    def __init__(self, root: Path, loss: type[Loss], folder: Path) -> None:
        self.disk = Disk(root)
        self.loss = loss
        self.folder = folder
        self.trees: dict[frozenset[tuple[str, bytes | None]], Tree] = {}
        self.copies: list[Path] = []
        self.numbers = itertools.count()
        self.of_arrays = itertools.count()

    def __enter__(self) -> Cuts:
        self.fsync = os.fsync
        os.fsync = self.cut_and_sync
        return self

    def __exit__(self, *_: object) -> None:
        os.fsync = self.fsync
        self.cut()
        self.disk.close()
        trees = chosen(list(self.trees.values()), list(LOSSES.values()).index(self.loss))
        self.copies = [write(tree, self.folder / f"cut-{number}") for number, tree in enumerate(trees)]

    def cut_and_sync(self, descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if path.is_relative_to(self.disk.root):
            if "shards" not in path.parts or next(self.of_arrays) % 4 == 0:  # those are many and much alike
                self.cut()
            self.disk.sync(path)

    def cut(self) -> None:
        """Keep what is there, if there is none like it yet."""
        loss = self.loss(self.disk, next(self.numbers))
        tree = dict(loss.tree(self.disk.hold(self.disk.root)))
        self.trees.setdefault(frozenset(tree.items()), tree)
