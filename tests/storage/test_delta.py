"""The store's part of the Delta protocol, beside the real library: each reads what the other wrote."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from storage.index import delta, transaction
from storage.index.table import Table
from storage.index.transaction import LostRaceError, Transaction, append, rewrite
from storage.io.paths import store_path

SCHEMA = pa.schema([("row", pa.int64())])


class DeltaContract:
    """What holds on any backend, whose test class has a fixture `folder`: where a table can be made.

    It is one class, however long, so that no backend keeps only some of it.
    """

    @pytest.fixture
    def table(self, folder: Path | str) -> Table:
        table = Table(store_path(folder), SCHEMA)
        table.create()
        return table

    def test_of_two_that_make_it_at_once_the_first_does(self, table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("storage.index.table.is_table", lambda folder: False)  # as both saw it
        second = Table(table.folder, SCHEMA)
        second.create()
        assert (second.newest().number, second.id) == (0, table.id)

    def test_who_depends_on_the_same_name_loses(self, table: Table) -> None:
        base = table.newest()
        append(table, "first", lambda version: (rows(1), ["source"]))
        with (
            pytest.raises(LostRaceError, match="could not commit second"),
            Transaction(table, "second", base) as second,
        ):
            add_and_commit(second, 2)
        assert values(table) == [1]
        assert [path.name for path in table.parquet_files()] == ["first.parquet"]

    def test_writers_that_depend_on_nothing_common_do_not_clash(self, table: Table) -> None:
        base = table.newest()
        append(table, "first", lambda version: (rows(1), ["one source"]))
        with Transaction(table, "second", base) as second:
            second.add("second.parquet", [rows(2)])
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

    def test_what_others_committed_is_asked_for_in_growing_numbers(
        self, table: Table, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        follower, asked = Table(table.folder, SCHEMA), list[int]()
        read_from = follower.log.read_from

        def note(versions: range) -> list[list[delta.Action]]:
            asked.append(len(versions))
            return read_from(versions)

        monkeypatch.setattr(follower.log, "read_from", note)
        follower.newest()
        for commits, expected in ((0, [1]), (1, [1, 2]), (5, [1, 2, 4])):
            asked.clear()
            for number in range(commits):
                append(table, f"{number} of {commits}", lambda version: (rows(1), []))
            follower.newest()
            assert asked == expected

    def test_writers_at_once(self, table: Table) -> None:
        """Each writer wants the rows 0 to 9; every row is there once."""

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
        late.remove(base.entries[0])
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
        for number in range(5):
            append(table, str(number), lambda version, number=number: (rows(number), []))
        names = [path.name for path in table.log.log.children()]
        assert {"_last_checkpoint", delta.checkpoint_name(2), delta.checkpoint_name(4)} <= set(names)
        assert {delta.entry_name(number) for number in range(6)} <= set(names)
        opened = Table(table.folder, SCHEMA)
        assert opened.newest() == table.newest()
        assert opened.at(1).files == ("0.parquet",)
        assert [opened.committed(name) for name in ("0", "4", "5")] == [True, True, False]
        assert {file.crc32c is None for file in opened.newest().entries} == {False}

    def test_each_reads_what_the_other_wrote(self, table: Table) -> None:
        """delta-rs, with its statistics; and a table that it committed to itself."""
        append(table, "first", lambda version: (rows(1), ["source"]))
        rewrite(table, "second", lambda rows: rows.slice(0, 0))
        append(table, "third~0", lambda version: (rows(3), []))
        theirs = DeltaTable(str(table.folder))
        assert (theirs.version(), delta.file_names(theirs)) == (table.newest().number, table.newest().files)
        assert pa.table(theirs.get_add_actions(flatten=True))["num_records"].to_pylist() == [1]
        assert theirs.transaction_version("first") == theirs.transaction_version("source") == 1
        write_deltalake(theirs, rows(4, 5), mode="append")
        theirs.create_checkpoint()
        assert values(table) == values(Table(table.folder, SCHEMA)) == [3, 4, 5]
        assert [file.rows for file in table.newest().entries if file.name != "third~0.parquet"] == [2]

    def test_the_newest_entry_was_deleted(self, table: Table) -> None:
        """Its checksum is still there: nobody gets fewer rows in silence, and nobody commits in its place."""
        append(table, "first", lambda version: (rows(1), []))
        append(table, "second", lambda version: (rows(2), []))
        table.log.entry(2).remove()
        opened = Table(table.folder, SCHEMA)
        with pytest.raises(ValueError, match=r"00002\.json: expected an entry of the log, whose checksum is there"):
            opened.newest()
        assert opened.at(1).files == ("first.parquet",)
        assert [found[:2] for found in opened.log.check()] == [("missing", "_delta_log/00000000000000000002.json")]


class TestOnADisk(DeltaContract):
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        return tmp_path / "table"

    def test_a_damaged_entry_is_no_lost_race(self, table: Table) -> None:
        append(table, "first", lambda version: (rows(1), []))
        base = table.newest()
        append(table, "second", lambda version: (rows(2), []))
        Path(str(table.log.entry(2))).write_bytes(b"{broken")
        with (
            pytest.raises(OSError, match="could not commit third") as failed,
            Transaction(table, "third", base) as third,
        ):
            add_and_commit(third, 3)
        assert not isinstance(failed.value, LostRaceError)

    def test_a_file_that_is_not_as_committed_is_not_read(self, table: Table) -> None:
        """One bit of any byte is flipped."""
        append(table, "first", lambda version: (rows(1), []))
        path = Path(str(table.folder), "first.parquet")
        whole = path.read_bytes()
        for place in range(0, len(whole), 7):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
            with pytest.raises(ValueError, match=r"first\.parquet: expected CRC-32C"):
                values(Table(table.folder, SCHEMA))

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
    transaction.add(f"{transaction.name}.parquet", [rows(value)])
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
