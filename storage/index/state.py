"""The state of a Delta table at a version, read from its log: which files there are, and which commits went in."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from storage.index.delta import Action, DataFile, check_protocol, checkpoint_name, file_name, file_of, noted_checksums
from storage.index.log import REQUESTS_AT_ONCE, DeltaLog, refusing


class LogState:
    """A version of a table, read from the newest checkpoint before it and the entries since; it can go on from there.

    What it costs to open grows with the entries since the checkpoint, to go on with those that are new: neither lists
    the log.
    """

    def __init__(self, log: DeltaLog) -> None:
        self.log = log
        self.version = -1
        self.checkpoint = -1
        """Version of the checkpoint that it was read from."""
        self.id: str | None = None
        self.files: dict[str, DataFile] = {}
        self._names: set[str] = set()
        self._earlier_names: set[str] | None = None

    @classmethod
    def load(cls, log: DeltaLog, version: int | None = None) -> LogState:
        """Return a version, or the newest.

        Raises:
            ValueError: there is no such table or version, or it can't be read.
        """
        state = cls(log)
        checkpoint = log.checkpoint_before(version)
        if checkpoint is not None:
            state._read_checkpoint(checkpoint)
        state.advance(version)
        if state.id is None:
            raise ValueError("expected entries of a Delta log, found none")
        return state

    def advance(self, to: int | None = None) -> None:
        """Go on to a version, or as far as the log goes; ValueError where its newest entry was lost."""
        ahead = 1 if to is None else REQUESTS_AT_ONCE
        while to is None or self.version < to:
            last = self.version + ahead if to is None else min(to, self.version + ahead)
            wanted = range(self.version + 1, last + 1)
            found = self.log.read_from(wanted)
            for actions in found:
                with refusing(self.log.entry(self.version + 1)):
                    self._apply(actions)
                self.version += 1
            if len(found) < len(wanted):
                break
            ahead = min(2 * ahead, REQUESTS_AT_ONCE)  # few are new as a rule; each that is not there costs one
        if to is None:
            self.log.check_newest(self.version)

    def committed(self, name: str) -> bool:
        """Return whether a commit of this name went in."""
        return name in self._names or name in self._names_before()

    def committed_like(self, beginnings: tuple[str, ...]) -> frozenset[str]:
        """Return the names of the commits that went in and begin with one of some words."""
        names = self._names | self._names_before()
        return frozenset(name for name in names if name.startswith(beginnings))

    def _apply(self, actions: Iterable[Action]) -> None:
        checksums: dict[str, int] = {}
        for action in actions:
            for kind, values in action.items():
                if kind == "add":
                    file = file_of(values)
                    self.files[file.name] = file
                elif kind == "remove":
                    self.files.pop(file_name(values), None)
                elif kind == "txn" and "/" not in values["appId"]:  # the others name what a commit depended on
                    self._names.add(values["appId"])
                elif kind == "metaData":
                    self.id = values["id"]
                elif kind == "protocol":
                    check_protocol(values)
                elif kind == "commitInfo":
                    checksums |= noted_checksums(values)
        for name in checksums.keys() & self.files.keys():
            if self.files[name].crc32c is None:
                self.files[name] = replace(self.files[name], crc32c=checksums[name])

    def _read_checkpoint(self, version: int) -> None:
        columns = ["add.path", "add.size", "add.modificationTime", "add.stats", "add.tags", "add.deletionVector"]
        rows = self._checkpoint_rows(version, [*columns, "metaData.id", "protocol.minReaderVersion"])
        for kind in ("protocol", "metaData", "add"):
            column = rows[kind]
            with refusing(self.log.log / checkpoint_name(version)):
                self._apply({kind: values} for values in column.filter(_is_there(column)).to_pylist())
        self.version = self.checkpoint = version

    def _names_before(self) -> set[str]:
        """Return the names of the commits that the checkpoint sums up."""
        if self._earlier_names is None:
            self._earlier_names = set()
            if self.checkpoint >= 0:
                rows = self._checkpoint_rows(self.checkpoint, ["txn.appId"])["txn"].combine_chunks()
                self._earlier_names.update(rows.field("appId").drop_null().to_pylist())
        return self._earlier_names

    def _checkpoint_rows(self, version: int, columns: list[str]) -> pa.Table:
        path = self.log.log / checkpoint_name(version)
        try:
            return pq.ParquetFile(path.arrow_source()).read(columns=columns)
        except (OSError, pa.ArrowInvalid) as error:
            raise ValueError(f"{path}: expected a checkpoint of the log, found {error}") from error


def _is_there(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return which rows of a checkpoint hold an action: its first field is never null in one."""
    first = pa.chunked_array([chunk.field(0) for chunk in column.chunks], column.type.field(0).type)
    return pc.and_(pc.is_valid(column), pc.is_valid(first))
