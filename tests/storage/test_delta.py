"""What the index relies on in delta-rs and no documentation promises: a new version that breaks it is told here."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError

from storage.index import delta, transaction
from storage.index.table import Table
from storage.index.transaction import LostRaceError, Transaction, append, rewrite
from storage.io.paths import store_path

SCHEMA = pa.schema([("row", pa.int64())])


class DeltaContract:
    """What holds on any backend, whose test class has a fixture `folder`: where a table can be made."""

    @pytest.fixture
    def table(self, folder: Path | str) -> Table:
        table = Table(store_path(folder), SCHEMA)
        table.create()
        return table

    def test_a_lost_race_is_known_by_its_words(self, table: Table) -> None:
        """Two writers looked at one version, and depend on the same name: the second one's commit fails."""
        base = table.newest()
        append(table, "first", lambda version: (rows(1), ["source"]))
        with pytest.raises(CommitFailedError) as lost:
            write(table, base.number, "second", ["source"])
        assert delta.lost_the_race(lost.value), f"delta-rs has other words now: {lost.value}"

    def test_a_lost_race_is_lost_for_a_transaction_too(self, table: Table) -> None:
        base = table.newest()
        append(table, "first", lambda version: (rows(1), ["source"]))
        with (
            pytest.raises(LostRaceError, match="could not commit second"),
            Transaction(table, "second", base) as second,
        ):
            add_and_commit(second, 2)
        assert values(table) == [1]
        assert [path.name for path in table.parquet_files()] == ["first.parquet"]

    def test_giving_up_after_many_tries_is_known_by_its_words(self, table: Table) -> None:
        base = table.newest()
        append(table, "first", lambda version: (rows(1), []))
        with pytest.raises(CommitFailedError) as lost:
            write(table, base.number, "second", [], max_commit_retries=0)
        assert "Failed to commit transaction: " in str(lost.value), f"delta-rs has other words now: {lost.value}"
        assert delta.lost_the_race(lost.value)

    def test_writers_that_depend_on_nothing_common_do_not_clash(self, table: Table) -> None:
        base = table.newest()
        append(table, "first", lambda version: (rows(1), ["one source"]))
        with Transaction(table, "second", base) as second:
            second.add("second.parquet", rows(2))
            assert second.commit(["another source"]) == 2
        assert values(table) == [1, 2]

    def test_who_loses_looks_again(self, table: Table) -> None:
        """What the first writer committed is not committed again, and the rest is."""
        seen: list[int] = []

        def build(version):
            seen.append(version.number)
            if len(seen) == 1:
                append(table, "first", lambda version: (rows(1), ["source"]))
            missing = sorted({1, 2} - set(table.read(version, ["row"])["row"].to_pylist()))
            return rows(*missing), ["source"]

        assert append(table, "second", build) == 2
        assert seen == [0, 1]
        assert values(table) == [1, 2]

    def test_writers_at_once(self, table: Table) -> None:
        """Each wants the rows 0 to 9; every row is there once."""

        def build(version):
            missing = sorted(set(range(10)) - set(table.read(version, ["row"])["row"].to_pylist()))
            return (rows(missing[0]), ["source"]) if missing else None

        def write_all(writer: int) -> None:
            for number in range(10):
                append(table, f"{writer}-{number}", build)

        threads = [threading.Thread(target=write_all, args=(writer,)) for writer in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert values(table) == list(range(10))
        assert len(table.parquet_files()) == 10

    def test_a_file_that_another_removed_is_a_lost_race(self, table: Table) -> None:
        append(table, "first", lambda version: (rows(1), []))
        base = table.newest()
        rewrite(table, "drop", lambda rows: rows.slice(0, 0))
        late = Transaction(table, "late", base)
        late.remove("first.parquet")
        with pytest.raises(LostRaceError, match="could not commit late"):
            late.commit()
        assert values(table) == []

    def test_the_names_of_files(self, table: Table) -> None:
        append(table, "repair-x.y_z~0", lambda version: (rows(1), []))
        (name,) = table.newest().files
        assert name == "repair-x.y_z~0.parquet"
        assert values(table) == [1]
        names = {path.name for path in table.log.log.children()}
        assert {delta.entry_name(0), delta.entry_name(1)} <= names

    def test_a_commit_tells_the_checksums_of_its_files(self, table: Table) -> None:
        append(table, "first", lambda version: (rows(1), []))
        assert list(table.log.checksums(1)) == ["first.parquet"]
        assert list(table.check_files(table.newest())) == []
        path = table.folder / "first.parquet"
        path.write(path.read_bytes()[:-1])
        ((kind, name, _),) = table.check_files(table.newest())
        assert (kind, name) == ("flipped", "first.parquet")

    def test_a_checkpoint_has_its_name_and_nothing_is_removed(self, table: Table, monkeypatch) -> None:
        monkeypatch.setattr(transaction, "CHECKPOINT_EVERY", 2)
        for number in range(4):
            append(table, str(number), lambda version, number=number: (rows(number), []))
        names = [path.name for path in table.log.log.children()]
        assert "_last_checkpoint" in names
        assert any(name.startswith(delta.checkpoint_prefix(4)) for name in names)
        assert {delta.entry_name(number) for number in range(5)} <= set(names)
        assert Table(table.folder, SCHEMA).at(1).files == ("0.parquet",)


class TestOnADisk(DeltaContract):
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        return tmp_path / "table"

    def test_a_damaged_entry_is_no_lost_race(self, table: Table) -> None:
        append(table, "first", lambda version: (rows(1), []))
        base = table.newest()
        append(table, "second", lambda version: (rows(2), []))
        entry = Path(str(table.log.entry(2)))
        entry.write_bytes(b"{broken")
        with pytest.raises(Exception, match=".") as failed:
            write(table, base.number, "third", ["source"])
        assert not delta.lost_the_race(failed.value), str(failed.value)

    def test_delta_writes_no_checkpoint_by_itself(self, table: Table) -> None:
        for number in range(12):  # by default it would after ten
            append(table, str(number), lambda version, number=number: (rows(number), []))
        assert not list(Path(str(table.log.log)).glob("*checkpoint*"))

    def test_every_version_is_kept(self, table: Table) -> None:
        metadata = DeltaTable(str(table.folder)).metadata().configuration
        assert metadata == delta.KEEP_HISTORY

    def test_a_commit_that_finds_no_room_is_no_lost_race_and_leaves_nothing(self, small_disk: Path) -> None:
        table = Table(store_path(small_disk / "table"), SCHEMA)
        table.create()
        first = Transaction(table, "first", table.newest())
        with pytest.raises(OSError, match=r"(?s)could not commit first: .*No space left") as failed, first:
            add_and_commit(first, 1, lambda: fill(small_disk / "filled"))
        assert not isinstance(failed.value, LostRaceError)
        (small_disk / "filled").unlink()
        assert values(table) == []
        assert table.parquet_files() == []
        append(table, "first", lambda version: (rows(1), []))
        assert values(table) == [1]

    def test_the_entry_is_json_of_the_delta_protocol(self, table: Table) -> None:
        append(table, "first", lambda version: (rows(1), ["source"]))
        actions = [json.loads(line) for line in table.log.entry(1).read_bytes().splitlines()]
        assert {action["txn"]["appId"] for action in actions if "txn" in action} == {"first", "source"}
        assert table.committed("first")
        assert not table.committed("second")


class TestInAnObjectStore(DeltaContract):
    @pytest.fixture
    def folder(self, s3_url: str) -> str:
        return f"{s3_url}/table"


def add_and_commit(transaction: Transaction, value: int, meanwhile: Callable[[], None] = lambda: None) -> None:
    transaction.add(f"{transaction.name}.parquet", rows(value))
    meanwhile()
    transaction.commit(["source"])


def fill(path: Path) -> None:
    """Write a file until the disk is full."""
    with suppress(OSError), path.open("wb", buffering=0) as file:
        while file.write(bytes(64)):
            pass


def rows(*values: int) -> pa.Table:
    return pa.table({"row": list(values)}, SCHEMA)


def values(table: Table) -> list[int]:
    return sorted(table.read(table.newest(), ["row"])["row"].to_pylist())


def write(table: Table, base: int, name: str, depends_on: list[str], **properties: int) -> None:
    """An entry that adds no file, written as if version `base` were the newest."""
    delta.write_entry(str(table.folder), base, [], SCHEMA, [name, *depends_on], {}, **properties)
