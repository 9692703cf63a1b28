"""The index that training reads: made once a machine, mapped by all, and made again where it is not as it was made."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage import EncodingStore, ShardWriter, caption_hash
from storage.index.transaction import append
from storage.io import cached_arrays
from storage.reading import sample_index
from storage.reading.dataset import DatasetConfig, EncodingDataset
from storage.schema import INDEX
from tests.examples import examples, some
from tests.storage import synthetic, test_epochs


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EncodingStore:
    store, llm = synthetic.make_store(tmp_path_factory.mktemp("index") / "store")
    base = store.register_fingerprint(synthetic.BASE)
    for source in ("b", "a"):
        synthetic.encode(store, llm, source, range(40), base=base)
    synthetic.encode(store, base, "c")
    return store


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder where this machine keeps the index."""
    monkeypatch.setenv("LLMDIFF_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "training"


@pytest.fixture
def built_indexes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths of the stores whose index was built."""
    found: list[str] = []
    build = sample_index.build

    def note(store: EncodingStore, *arguments: Any) -> Any:
        found.append(str(store.path))
        return build(store, *arguments)

    monkeypatch.setattr(sample_index, "build", note)
    return found


def opened(store: EncodingStore, **options: Any) -> EncodingDataset:
    llm = max(store.fingerprints(), key=lambda key: store.fingerprints()[key]["kind"])
    return EncodingDataset(store.path, DatasetConfig(fingerprint=llm, batch_size=8, **options))


def rows(data: EncodingDataset) -> list[Any]:
    return [(batch.rows, batch.caption_hashes, batch.encodings.sum().item()) for batch in data.epoch(0)]


def test_it_is_made_once_for_each_version_and_choice(
    store: EncodingStore, built_indexes: list[str], tmp_path: Path
) -> None:
    expected = rows(opened(store))
    for rank in range(2):
        opened(store, rank=rank, world_size=2, seed=rank)
    assert rows(opened(store)) == expected
    assert len(built_indexes) == 1
    opened(store, version=1)
    opened(store, caption_choice="one")
    assert len(built_indexes) == 3
    copy = EncodingStore.open(shutil.copytree(store.path, tmp_path / "copy"))
    assert rows(opened(copy)) == expected
    assert len(built_indexes) == 3
    for each, source in ((store, "d"), (copy, "e")):  # the same version and store, and other rows
        other = EncodingStore.open(shutil.copytree(each.path, tmp_path / source))
        synthetic.encode(other, opened(other).config.fingerprint, source, shard="new")
        assert {f"{source}.parquet"} < {row[0] for batch in opened(other).epoch(0) for row in batch.rows}
    assert len(built_indexes) == 5


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def other_format(file: Path) -> None:
    file.write_text(file.read_text().replace('"facts"', '"other"'))


DAMAGES: dict[str, tuple[str, Callable[[Path], None]]] = {
    "flipped": ("records.npy", flip),
    "cut": ("records.npy", lambda file: os.truncate(file, 100)),
    "missing": ("records.npy", Path.unlink),
    "facts flipped": ("contents.json", flip),
    "facts cut": ("contents.json", lambda file: os.truncate(file, 10)),
    "facts missing": ("contents.json", Path.unlink),
    "facts of another kind": ("contents.json", other_format),
}


@pytest.mark.parametrize("damage", some(DAMAGES))
def test_what_is_damaged_is_made_again(
    store: EncodingStore, built_indexes: list[str], folder: Path, damage: str
) -> None:
    expected = rows(opened(store))
    (index,) = (path for path in folder.iterdir() if path.is_dir())
    name, apply = DAMAGES[damage]
    apply(index / name)
    assert rows(opened(store)) == expected == rows(opened(store))
    assert len(built_indexes) == 2


def test_checksums_are_compared_once_after_the_machine_was_started(
    store: EncodingStore, built_indexes: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = rows(opened(store))
    (records,) = folder.glob("*/records.npy")
    before = records.stat()
    flip(records)
    os.utime(records, ns=(before.st_atime_ns, before.st_mtime_ns))  # as a disk's own fault leaves it
    monkeypatch.setattr(cached_arrays, "_stamp", lambda: "checked-another")
    assert rows(opened(store)) == expected
    assert len(built_indexes) == 2
    compared: list[Path] = []
    monkeypatch.setattr(cached_arrays, "_checksums", compared.append)
    assert rows(opened(store)) == expected
    assert compared == []


def test_what_was_broken_off_leaves_nothing_and_is_made_again(
    store: EncodingStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_off(*arguments: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr("storage.reading.sorting.Sorter.sort", break_off)
        with pytest.raises(KeyboardInterrupt):
            opened(store)
    assert [path for path in folder.iterdir() if path.suffix != ".lock"] == []
    assert rows(opened(store))


def test_a_full_disk_is_named(store: EncodingStore, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cached_arrays.os, "posix_fallocate", full)
    with pytest.raises(OSError, match=r"No space left on device: an index of \d+ bytes; LLMDIFF_CACHE names another"):
        opened(store)
    assert [path for path in folder.iterdir() if path.suffix != ".lock"] == []


def test_where_nothing_may_be_written_a_process_makes_its_own(
    store: EncodingStore, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected = rows(opened(store))
    shutil.rmtree(folder)

    def refuse(path: Path, *arguments: Any, **options: Any) -> None:
        raise OSError(30, "Read-only file system", str(path))

    with monkeypatch.context() as context:
        context.setattr(cached_arrays, "locked", refuse)
        data = opened(store)
    assert "Read-only file system" in caplog.text
    assert list(folder.iterdir()) == []
    assert rows(data) == expected


def test_what_nobody_opens_for_long_is_removed(store: EncodingStore, folder: Path) -> None:
    data = opened(store)
    (old,) = (path for path in folder.iterdir() if path.is_dir())
    left = folder / "x.new"
    left.mkdir()
    for path in (old / "contents.json", left):
        os.utime(path, (0, 0))
    expected = rows(data)
    opened(store, version=1)
    assert not old.exists()
    assert not left.exists()
    assert rows(data) == expected, "who reads it keeps it"


def open_and_tell(path: Path, started: Any, told: Any) -> None:
    calls = 0
    build = sample_index.build

    def count(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        return build(*arguments)

    sample_index.build = count
    started.wait()
    found = rows(opened(EncodingStore.open(path)))
    told.put((found, calls))


@pytest.mark.process
def test_of_processes_that_open_it_at_once_one_makes_it(store: EncodingStore) -> None:
    spawn = multiprocessing.get_context("spawn")
    started, told = spawn.Barrier(2), spawn.Queue()
    processes = [spawn.Process(target=open_and_tell, args=(Path(store.path), started, told)) for _ in range(2)]
    for process in processes:
        process.start()
    found = [told.get(timeout=120) for _ in processes]
    for process in processes:
        process.join()
    assert sum(calls for _, calls in found) == 1
    assert [content for content, _ in found] == [rows(opened(store))] * 2


@pytest.mark.parametrize("several_shapes", [False, True])
def test_little_memory_makes_the_same(
    store: EncodingStore, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, several_shapes: bool
) -> None:
    """Every group, part and batch is of a few rows."""
    (base,) = (key for key, entry in store.fingerprints().items() if entry["kind"] == "base")
    options: dict[str, Any] = {"caption_choice": "one", "repeats": {"a.parquet": 3, "3_b/": 3}}
    if several_shapes:
        store, _ = test_epochs.make(tmp_path / "store", pairs=True)
    else:
        options["base_fingerprint"] = base

    def contents() -> list[Any]:
        batches = opened(store, **options).epoch(1)
        base = ((batch, batch.base_encodings) for batch in batches)
        return [(test_epochs.content(batch), None if other is None else other.sum().item()) for batch, other in base]

    expected = contents()
    shutil.rmtree(folder)
    for name in ("sorting", "build", "pictures"):
        monkeypatch.setattr(f"storage.reading.{name}.GROUP_ROWS", 4)
    for name, value in (("reading.sorting.ROW_BITS", 1), ("io.array_parts.PART_ROWS", 2), ("index.row_stream.ROWS", 3)):
        monkeypatch.setattr(f"storage.{name}", value)
    assert contents() == expected


@settings(max_examples=examples(12), deadline=None)
@given(
    places=st.lists(
        st.tuples(st.sampled_from("ab"), st.sampled_from("01"), st.integers(0, 3 << 20), st.integers(0, 9)),
        unique=True,
        min_size=1,
        max_size=30,
    ),
    files=st.integers(1, 3),
)
def test_samples_are_ordered_by_source_hash_row_and_caption(
    tmp_path_factory: pytest.TempPathFactory, places: list[tuple[str, str, int, int]], files: int
) -> None:
    store, llm = synthetic.make_store(tmp_path_factory.mktemp("order") / "store")
    with ShardWriter(store, "arrays", llm) as writer:
        for number in range(10):
            writer.add_encoding(caption_hash(f"{number}"), synthetic.encoding(f"{number}"))
        writer.add_latent("x", np.zeros((4, 2, 2), np.float16))
        writer.add_sample(dataclasses.replace(synthetic.sample(llm, "z", 0, "0"), latent_key="x"))
    known = store.samples().to_pylist()[0]
    refs = store.snapshot().encodings(llm, [caption_hash(f"{number}") for number in range(10)])
    for file in range(files):
        some = [
            {
                **known,
                "source": source,
                "source_hash": of,
                "row": row,
                "caption_hash": (key := caption_hash(f"{number}")),
                "first_token": refs[key].first_token,
                "token_count": refs[key].token_count,
                "encoding_checksum": refs[key].checksum,
            }
            for source, of, row, number in places[file::files]
        ]
        table = pa.Table.from_pylist(some, INDEX)
        append(store.index, f"more-{file}", lambda version, table=table: (table, []))
    index = opened_index(store, llm)
    found = [
        (index.sources[index.source[i]], int(index.row[i]), index.caption_hashes(np.array([i]))[0])
        for i in range(len(index))
    ]
    expected = sorted((source, of, row, caption_hash(f"{number}")) for source, of, row, number in places)
    assert found == [(source, row, key) for source, _, row, key in expected] + [("z.parquet", 0, caption_hash("0"))]


def opened_index(store: EncodingStore, fingerprint: str) -> sample_index.SampleIndex:
    return sample_index.SampleIndex.load(store, fingerprint, None, None, 1)
