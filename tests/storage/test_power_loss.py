"""Power is lost while a store is written to: what was not synced is gone, empty or cut off, and the store is well.

Before each sync the folder is copied as a disk could hold it: of a file its bytes when it was last synced, of a folder
its names when it was last synced, and of what came later anything.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from storage import EncodingStore, content_hash
from storage.index import transaction
from storage.maintenance.gc import collect, drop
from storage.maintenance.repair import repair
from storage.maintenance.verify import verify
from storage.writing.optimize import optimize
from tests.examples import some
from tests.storage import synthetic, writer_process
from tests.storage.power_loss import LOSSES, Anything, Cuts, HalfOfTheBytes

ROWS = range(8)


@pytest.fixture(params=some(LOSSES.values()), ids=some(LOSSES))
def cuts(request, tmp_path) -> Callable[[Path], Cuts]:
    folder = tmp_path / "cuts"
    folder.mkdir()
    return lambda root: Cuts(root, request.param, folder)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    store, llm = synthetic.make_store(tmp_path_factory.mktemp("whole") / "store")
    synthetic.encode(store, llm, "a", ROWS, shard="a")
    return store.path


@pytest.fixture
def store(whole, tmp_path) -> EncodingStore:
    return EncodingStore.open(shutil.copytree(whole, tmp_path / "store"))


def expected(*sources: str) -> list[tuple[str, int, str]]:
    return [row for source in sources for row in synthetic.expected_rows(source, ROWS)]


def rows_of(store: EncodingStore) -> list[tuple[str, int, str]]:
    (llm,) = store.fingerprints()
    return synthetic.rows_of(store, llm)


def check(path: Path, *sources: str) -> None:
    """The sources' rows are there, each once, all is well, and nothing is left of what was being written."""
    store = EncodingStore.open(path)
    (llm,) = store.fingerprints()
    collect(store)
    assert verify(store) == []
    assert rows_of(store) == expected(*sources)
    synthetic.check_encodings(store, llm, [caption for _, _, caption in expected(*sources)])
    assert not list((path / "writing").glob("*.lock"))


def test_while_encoding(store, cuts):
    (llm,) = store.fingerprints()
    with cuts(store.path) as made_cuts:
        synthetic.encode(store, llm, "b", ROWS, shard="b")
    there = []
    for path in made_cuts.copies:
        cut = EncodingStore.open(path)
        assert verify(cut) == []
        there.append(rows_of(cut))
        assert there[-1] in (expected("a"), expected("a", "b"))
        synthetic.encode(cut, llm, "b", ROWS)
        check(path, "a", "b")
    assert next(made_cuts.numbers) > 10
    assert there[0] == expected("a")
    assert there[-1] == expected("a", "b")


def test_while_dropping(store, cuts):
    (llm,) = store.fingerprints()
    synthetic.encode(store, llm, "b", ROWS, shard="b")
    with cuts(store.path) as made_cuts:
        drop(store, source_hash=content_hash(b"a"))
    for path in made_cuts.copies:
        cut = EncodingStore.open(path)
        assert verify(cut) == []
        assert rows_of(cut) in (expected("a", "b"), expected("b"))
        drop(cut, source_hash=content_hash(b"a"))
        check(path, "b")


def test_while_optimizing(store, cuts):
    (llm,) = store.fingerprints()
    synthetic.encode(store, llm, "b", ROWS, shard="b")
    with cuts(store.path) as made_cuts:
        optimize(store)
    for path in made_cuts.copies:
        cut = EncodingStore.open(path)
        assert verify(cut) == []
        assert rows_of(cut) == expected("a", "b")
        optimize(cut)
        assert len(cut.index.newest().files) == 1
        check(path, "a", "b")


@pytest.mark.process
def test_while_removing_what_is_not_kept(store, cuts):
    """A file that was removed may be back."""
    (llm,) = store.fingerprints()
    synthetic.encode(store, llm, "b", ROWS, shard="b")
    drop(store, source_hash=content_hash(b"a"))
    writer_process.run(writer_process.die_while_writing, store.path, llm, "lost")
    with cuts(store.path) as made_cuts:
        collect(store, keep=[])
        for _ in range(10):
            made_cuts.cut()
    for path in made_cuts.copies:
        cut = EncodingStore.open(path)
        assert verify(cut) == []
        collect(cut, keep=[])
        check(path, "b")


@pytest.mark.parametrize(
    "cuts", some([HalfOfTheBytes, Anything]), ids=some(["half of the bytes", "anything"]), indirect=True
)
def test_while_repairing(store, cuts):
    (llm,) = store.fingerprints()
    synthetic.encode(store, llm, "b", ROWS, shard="b")
    chunk = next(path for path in sorted((store.path / "shards/a/encodings").rglob("c/**/*")) if path.is_file())
    content = bytearray(chunk.read_bytes())
    content[100] ^= 1
    chunk.write_bytes(content)
    with cuts(store.path) as made_cuts:
        repair(store, verify(store))
    for path in made_cuts.copies:
        cut = EncodingStore.open(path)
        problems = verify(cut)
        assert {problem.shard for problem in problems} <= {"a"}
        repair(cut, problems)
        for source in ("a", "b"):
            synthetic.encode(cut, llm, source, ROWS)
        check(path, "a", "b")


def test_while_making_a_store(tmp_path, cuts):
    place = tmp_path / "place"
    place.mkdir()
    with cuts(place) as made_cuts:
        synthetic.make_store(place / "store")
    for path in made_cuts.copies:
        store = EncodingStore.open_or_create(path / "store")
        synthetic.encode(store, store.register_fingerprint(synthetic.LLM), "a", ROWS)
        check(store.path, "a")


def test_while_summing_up_the_log(store, cuts, monkeypatch):
    (llm,) = store.fingerprints()
    monkeypatch.setattr(transaction, "CHECKPOINT_EVERY", 2)
    with cuts(store.path) as made_cuts:
        synthetic.encode(store, llm, "b", [0, 6], shard="b")
    assert list((made_cuts.copies[-1] / "index" / "_delta_log").glob("*.checkpoint*"))
    for path in made_cuts.copies:
        assert verify(EncodingStore.open(path)) == []
